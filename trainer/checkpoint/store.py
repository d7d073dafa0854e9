"""Checkpoint folders of a run: written aside, made visible by a rename, named by `latest`."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from configs.errors import ConfigError
from configs.schema import Config
from trainer.checkpoint.manifest import (
    MANIFEST,
    DamagedError,
    FileRecord,
    Records,
    check_files,
    check_sizes,
    flush,
    manifest_text,
    read_manifest,
)
from trainer.checkpoint.postponed import GivenUpError
from trainer.data.notices import tell_once

if TYPE_CHECKING:
    from trainer.parallel.grid import Grid

LATEST = "latest"
LEFT = "left"
"""At the end of the name of a folder whose course a run has left, by going back to one before it."""
_NAME = re.compile(r"step-\d+")
SMALL = 4 << 20
"""Bytes of a file that is read at a glance."""


class CheckpointError(OSError):
    """A checkpoint that was given up; all ranks raise it with the same words."""


def step_folder(checkpoints: Path, step: int) -> Path:
    return checkpoints / f"step-{step:08d}"


def commit(checkpoints: Path, step: int, grid: Grid, write: Callable[[Path], Records]) -> Path:
    """Have all ranks write into a folder aside, then make it visible in one rename; a collective.

    `write` gets the folder aside, and returns what it has brought to the disk there and read back. No rank goes on
    before all have told that they could, so a failure on any of them leaves the earlier checkpoint in force; it is
    raised as CheckpointError on all of them, with the rank that it came from and what that said.
    """
    # Only ranks commit; finding a checkpoint is also done before there are any, and torch takes seconds.
    import torch.distributed as dist

    from trainer.checkpoint.tensors import write_text
    from trainer.parallel.exchange import exchange

    final = step_folder(checkpoints, step)
    aside = checkpoints / f".{final.name}.partial"

    def together(task: Callable[[], Records]) -> Records:
        """All ranks' tasks, and what they have written."""
        failure: Exception | None = None
        told: dict[str, object] = {}
        try:
            told["files"] = {name: asdict(record) for name, record in task().items()}
        except (OSError, ValueError) as error:  # anything else ends this rank, and with it the others
            failure = error
            told |= {"error": str(error), "elsewhere": isinstance(error, GivenUpError)}
        answers = exchange(told, grid)
        failed = {rank: answer for rank, answer in enumerate(answers) if "error" in answer}
        guilty = [rank for rank in failed if not failed[rank]["elsewhere"]] or list(failed)
        if guilty and grid.is_main:
            shutil.rmtree(aside, ignore_errors=True)  # a full disk needs the room
        if guilty:
            # A rank that raises ends, and who has not heard all by then would meet a closed connection instead.
            with contextlib.suppress(RuntimeError):
                dist.barrier(group=grid.side_group)
            others = f", and {len(guilty) - 1} more" if len(guilty) > 1 else ""
            raise CheckpointError(
                f"checkpoint of step {step} was given up, rank {guilty[0]}{others} could not write its part: "
                f"{failed[guilty[0]]['error']}"
            ) from failure
        return {name: FileRecord(**file) for answer in answers for name, file in answer["files"].items()}

    def prepare() -> Records:
        if grid.is_main:
            for left in [*checkpoints.glob(".step-*.partial"), *checkpoints.glob(".step-*.gone")]:
                shutil.rmtree(left)  # by a process that was killed
            (aside / "training_state").mkdir(parents=True)
            flush(checkpoints.parent)
        return {}

    def publish() -> Records:
        if grid.is_main:
            write_text(aside / MANIFEST, manifest_text(step, records))
            for folder in (aside / "training_state", aside):
                flush(folder)
            _replace(final, aside)
        return {}

    together(prepare)
    records = together(lambda: write(aside))
    together(publish)
    return final


def _replace(final: Path, aside: Path) -> None:
    """Give the folder aside its name and have `latest` name it. Killed at any moment it leaves a sound one in force.

    A run that has gone back, or found its newest damaged, meets folders that are newer than what it goes on from: no
    later fallback must take them for its own, nor count them among those that it keeps.
    """
    checkpoints = final.parent
    in_force = [folder for folder in committed(checkpoints) if folder.name < final.name]
    left = [folder for folder in _folders(checkpoints) if folder not in in_force]
    if any(folder.name == _named(checkpoints) for folder in left):
        if in_force:
            name_latest(checkpoints, in_force[0].name)
        else:
            (checkpoints / LATEST).unlink()
    for folder in left:
        _put_aside(folder)
    pointer = _write_pointer(checkpoints, final.name)  # while a full disk still costs nothing
    aside.rename(final)
    try:
        flush(checkpoints)  # the folder's own name comes to the disk before what points to it
        pointer.rename(checkpoints / LATEST)
    except OSError:
        final.rename(aside)
        raise
    flush(checkpoints)


def _folders(checkpoints: Path) -> list[Path]:
    """All folders with a checkpoint's name, newest first."""
    found = (
        folder for folder in checkpoints.glob("step-*") if _NAME.fullmatch(folder.name) and folder.is_dir()
    )
    return sorted(found, reverse=True)


def _put_aside(path: Path) -> Path:
    return path.rename(_unused(path.with_stem(f"{path.stem}-{LEFT}")))


def _unused(path: Path) -> Path:
    """The path, with a number where there is something by that name."""
    paths = (path if n == 1 else path.with_stem(f"{path.stem}-{n}") for n in count(1))
    return next(path for path in paths if not path.exists())


def name_latest(checkpoints: Path, name: str) -> None:
    """Point `latest` at a committed folder; a reader sees the old name or the new one, nothing between."""
    flush(checkpoints)
    _write_pointer(checkpoints, name).rename(checkpoints / LATEST)
    flush(checkpoints)


def _write_pointer(checkpoints: Path, name: str) -> Path:
    from trainer.checkpoint.tensors import write_text

    aside = checkpoints / f".{LATEST}.partial"
    write_text(aside, name + "\n")
    return aside


def _named(checkpoints: Path) -> str:
    """What `latest` says, empty where there is none. A power cut can leave a file of NULs."""
    pointer = checkpoints / LATEST
    return pointer.read_bytes().decode(errors="replace").strip("\0 \n") if pointer.is_file() else ""


def committed(checkpoints: Path) -> list[Path]:
    """The checkpoints that a run may go on from: that which `latest` names, then the older ones, newest first.

    A missing or empty `latest` beside committed folders is answered by looking at the folders themselves, and
    a `latest` naming what is not there raises ConfigError: a run never starts over silently.
    """
    folders = _folders(checkpoints)
    name = _named(checkpoints)
    if not name:
        return folders
    if checkpoints / name not in folders:
        raise ConfigError(
            f"{checkpoints / LATEST} names {name!r}, which is not there: write the name of a folder beside it into it, "
            "or set checkpoint.resume=never to start over"
        )
    return folders[folders.index(checkpoints / name) :]


def resume_folders(config: Config) -> list[Path]:
    """The checkpoints to go on from, the next where one is damaged; none for a fresh start. Raises ConfigError for a
    folder that is not there; tells where one that is named is not taken.

    A folder of another run is where this run begins; once it has checkpoints of its own it goes on from those.
    One of its own is gone back to. What is named is not replaced by another.
    """
    resume = config.checkpoint.resume
    checkpoints = Path(config.run.output_dir) / "checkpoints"
    if resume == "never":
        return []
    if resume == "auto":
        return committed(checkpoints)
    folder = Path(resume)
    if not folder.is_dir():
        raise ConfigError(f"checkpoint.resume={resume}: no such folder; name a checkpoint, auto or never")
    if not goes_on(config):
        if not _NAME.fullmatch(folder.resolve().name):
            raise ConfigError(
                f"checkpoint.resume={resume}: was put aside; to go back to it give it its name again, as in "
                "step-00000100, or begin another run there: with another run.output_dir"
            )
        return [folder]
    own = committed(checkpoints)
    if own:
        tell_once(
            f"checkpoint.resume={resume} is where this run began: it goes on from its own {own[0].name} "
            "(with another run.output_dir a new run begins there)"
        )
    return own or [folder]


def goes_on(config: Config) -> bool:
    """Whether the same command, started again, goes on from this run's newest checkpoint."""
    resume, checkpoints = config.checkpoint.resume, Path(config.run.output_dir) / "checkpoints"
    return resume == "auto" or (resume != "never" and Path(resume).resolve().parent != checkpoints.resolve())


def take_up(config: Config, folder: Path) -> bool:
    """Have `latest` name the checkpoint that a run goes on from, where it is one of its own: what is newer, of a course
    that it leaves or damaged, is put aside with the next that is saved, and a start before that finds the same one.

    Returns whether the run's own course goes on: not one gone back on, nor one begun from another run's checkpoint.
    """
    checkpoints = Path(config.run.output_dir) / "checkpoints"
    if folder.resolve().parent != checkpoints.resolve():
        return False
    name = folder.resolve().name
    before = _named(checkpoints) or _folders(checkpoints)[0].name
    if before != name:
        name_latest(checkpoints, name)
    return goes_on(config) or before == name


def resume_folder(config: Config) -> Path | None:
    """The first checkpoint to go on from that looks whole, as far as a moment shows; None for a fresh start.

    Tells of each that does not. Raises ConfigError where none does.
    """
    return first_sound(resume_folders(config), glance, tell_once)


def glance(folder: Path) -> None:
    """What a moment shows: every file's size, and all bytes of the small ones, which are read before ranks start.

    Raises DamagedError.
    """
    records = read_manifest(folder)
    check_sizes(folder, records)
    check_files(folder, records, [name for name, record in records.items() if record.size <= SMALL])


def first_sound(
    folders: Sequence[Path], check: Callable[[Path], None], tell: Callable[[str], None]
) -> Path | None:
    """The first folder that `check` raises no DamagedError for; None where there are no folders.

    Raises ConfigError where it does for all: a run never starts over silently.
    """
    for i, folder in enumerate(folders):
        try:
            check(folder)
        except DamagedError as error:
            damage = str(error)
        else:
            return folder
        if i + 1 < len(folders):
            tell(
                f"checkpoint {folder.name} is damaged: {damage}. Going on from {folders[i + 1].name} instead"
            )
        else:
            raise ConfigError(
                f"{damage}. There is no other to go on from: name a whole one in checkpoint.resume, or start afresh "
                "with checkpoint.resume=never"
            )
    return None


def prune(
    checkpoints: Path, keep: int | None, doubtful: Callable[[Path], bool] = lambda folder: False
) -> None:
    """Delete all but the `keep` newest of the checkpoints that a run may go on from; None keeps all.

    Those that are `doubtful` do not count: of them none is kept but the newest checkpoint of all. Others, of a course
    that the run has left, are not touched and do not count either.
    """
    if not keep:
        return
    folders = committed(checkpoints)
    kept = [*folders[:1], *[folder for folder in folders if not doubtful(folder)][:keep]]
    for folder in folders:
        if folder not in kept:
            _remove(folder)


def put_aside(output_dir: Path) -> list[Path]:
    """Rename a run's logs and checkpoints, so that none is taken for the run's that begins in their place.

    Returns what they are called now. Whatever is left where this is killed is a checkpoint in force with its log or
    none, and the newest one to the last.
    """
    checkpoints = output_dir / "checkpoints"
    logs = [
        file for file in (output_dir / "metrics.jsonl", output_dir / "quarantine.jsonl") if file.is_file()
    ]
    (checkpoints / LATEST).unlink(missing_ok=True)
    aside = [_put_aside(path) for path in (*logs, *reversed(_folders(checkpoints)))]
    for folder in {path.parent for path in aside}:
        flush(folder)
    return aside


def _remove(folder: Path) -> None:
    """Take a committed folder's name away before its files, so that no half of it is ever seen under it."""
    gone = folder.with_name(f".{folder.name}.gone")
    shutil.rmtree(gone, ignore_errors=True)
    if folder.is_dir():
        folder.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)
