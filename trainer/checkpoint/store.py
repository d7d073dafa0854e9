"""Checkpoint folders of a run: written aside, made visible by a rename, named by `latest`."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from configs.errors import ConfigError
from trainer.checkpoint.manifest import (
    MANIFEST,
    FileRecord,
    Records,
    flush,
    manifest_text,
)
from trainer.checkpoint.postponed import GivenUpError

if TYPE_CHECKING:
    from trainer.parallel.grid import Grid

LATEST = "latest"
LEFT = "left"
"""At the end of the name of a folder whose course a run has left, by going back to one before it."""
_NAME = re.compile(r"step-\d+")


class CheckpointError(OSError):
    """A checkpoint that was given up; all ranks raise it with the same words."""


def step_folder(checkpoints: Path, step: int) -> Path:
    return checkpoints / f"step-{step:08d}"


def commit(
    checkpoints: Path,
    step: int,
    grid: Grid,
    write: Callable[[Path], Records],
    tell: Callable[[str], None] = lambda said: None,
) -> Path:
    """Have all ranks write into a folder aside, then make it visible in one rename; a collective.

    `write` gets the folder aside, and returns what it has brought to the disk there and read back. No rank goes on
    before all have told that they could, so a failure on any of them leaves the earlier checkpoint in force; it is
    raised as CheckpointError on all of them, with the rank that it came from and what that said. `tell` hears of each
    that is put aside.
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
            others = f" and {len(guilty) - 1} more" if len(guilty) > 1 else ""
            before = (
                "earlier checkpoints stay in force" if committed(checkpoints) else "there is none before it"
            )
            raise CheckpointError(
                f"checkpoint of step {step} was given up, rank {guilty[0]}{others} could not write its part: "
                f"{failed[guilty[0]]['error']}; {before}"
            ) from failure
        return {name: FileRecord(**file) for answer in answers for name, file in answer["files"].items()}

    def prepare() -> Records:
        if grid.is_main:
            # By a process that was killed. What cannot be deleted must not be in the way, now or at a later save.
            if aside.exists():
                aside.rename(unused(aside.with_suffix(".gone")))
            for left in [*checkpoints.glob(".step-*.partial"), *checkpoints.glob(".step-*.gone")]:
                _delete(left)
            (aside / "training_state").mkdir(parents=True)
            flush(checkpoints.parent)
        return {}

    def publish() -> Records:
        if grid.is_main:
            write_text(aside / MANIFEST, manifest_text(step, records))
            for folder in (aside / "training_state", aside):
                flush(folder)
            _replace(final, aside, tell)
        return {}

    together(prepare)
    records = together(lambda: write(aside))
    together(publish)
    return final


def _replace(final: Path, aside: Path, tell: Callable[[str], None]) -> None:
    """Give the folder aside its name and have `latest` name it. Killed at any moment it leaves a sound one in force.

    A run that has gone back, or found its newest damaged, meets folders that are newer than what it goes on from: no
    later fallback must take them for its own, nor count them among those that it keeps.
    """
    checkpoints = final.parent
    found, named = folders_of(checkpoints), named_latest(checkpoints)
    # Somebody may have taken away what `latest` names: that must not cost the run the next one.
    newest = named if checkpoints / named in found else final.name
    in_force = [folder for folder in found if folder.name <= newest and folder.name < final.name]
    left = [folder for folder in found if folder not in in_force]
    if any(folder.name == named for folder in left):
        if in_force:
            name_latest(checkpoints, in_force[0].name)
        else:
            (checkpoints / LATEST).unlink()
    for folder in left:
        went_on = f"the run went on from {in_force[0].name}" if in_force else "the run began anew"
        tell(f"checkpoint {folder.name} is {put_aside(folder).name} now: {went_on}")
    pointer = _write_pointer(checkpoints, final.name)  # while a full disk still costs nothing
    aside.rename(final)
    try:
        flush(checkpoints)  # the folder's own name comes to the disk before what points to it
        pointer.rename(checkpoints / LATEST)
    except OSError:
        final.rename(aside)
        raise
    try:
        flush(checkpoints)
    except OSError as error:  # it is in force all the same
        tell(f"checkpoint {final.name} is in force, but a power cut may still take it: {error}")


def folders_of(checkpoints: Path) -> list[Path]:
    """All folders with a checkpoint's name, newest first."""
    found = (folder for folder in checkpoints.glob("step-*") if is_name(folder.name) and folder.is_dir())
    return sorted(found, reverse=True)


def put_aside(path: Path) -> Path:
    """Rename a file or folder of a course that is left; returns what it is called now."""
    return path.rename(left_name(path))


def left_name(path: Path) -> Path:
    return unused(path.with_stem(f"{path.stem}-{LEFT}"))


def is_name(name: str) -> bool:
    """Whether a folder of that name is a checkpoint in force."""
    return bool(_NAME.fullmatch(name))


def unused(path: Path) -> Path:
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


def named_latest(checkpoints: Path) -> str:
    """What `latest` says, empty where there is none. A power cut can leave a file of NULs."""
    pointer = checkpoints / LATEST
    return pointer.read_bytes().decode(errors="replace").strip("\0 \n") if pointer.is_file() else ""


def committed(checkpoints: Path) -> list[Path]:
    """The checkpoints that a run may go on from: that which `latest` names, then the older ones, newest first.

    A missing or empty `latest` beside committed folders is answered by looking at the folders themselves, and
    a `latest` naming what is not there raises ConfigError: a run never starts over silently.
    """
    folders = folders_of(checkpoints)
    name = named_latest(checkpoints)
    if not name:
        return folders
    if checkpoints / name not in folders:
        other = f"set checkpoint.resume={folders[0]} to go on from that, or " if folders else ""
        raise ConfigError(
            f"{checkpoints / LATEST} names {name!r}, which is not there: {other}"
            "set checkpoint.resume=never to start over"
        )
    return folders[folders.index(checkpoints / name) :]


def prune(
    checkpoints: Path,
    keep: int | None,
    doubtful: Callable[[Path], bool] = lambda folder: False,
    tell: Callable[[str], None] = lambda said: None,
) -> None:
    """Delete all but the `keep` newest of the checkpoints that a run may go on from; None keeps all.

    Those that are `doubtful` do not count: of them none is kept but the newest checkpoint of all. Others, of a course
    that the run has left, are not touched and do not count either. `tell` hears of one that cannot be deleted, which
    is no reason to end a run.
    """
    if not keep:
        return
    folders = committed(checkpoints)
    kept = [*folders[:1], *[folder for folder in folders if not doubtful(folder)][:keep]]
    for folder in folders:
        if folder not in kept:
            try:
                _remove(folder)
            except OSError as error:
                tell(f"checkpoint {folder.name} could not be deleted: {error}")


def _remove(folder: Path) -> None:
    """Take a committed folder's name away before its files, so that no half of it is ever seen under it."""
    if folder.is_symlink():  # it lies elsewhere, on a disk for what is to stay
        folder.unlink()
        return
    # For root too, whom it would not keep from deleting; and others before half of it is gone.
    if not folder.stat().st_mode & 0o222 or not os.access(folder, os.W_OK):
        raise PermissionError(errno.EACCES, "it is write-protected", str(folder))
    gone = unused(folder.with_name(f".{folder.name}.gone"))
    folder.rename(gone)
    _delete(gone)


def _delete(left: Path) -> None:
    """As far as the system lets: the rest, as of a file that another process of an NFS client reads, is for later."""
    if left.is_symlink():
        with contextlib.suppress(OSError):
            left.unlink()
    else:
        shutil.rmtree(left, ignore_errors=True)
