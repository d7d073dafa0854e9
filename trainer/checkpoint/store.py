"""Checkpoint folders of a run: written aside, made visible by a rename, named by `latest`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from configs.errors import ConfigError
from configs.schema import Config
from trainer.checkpoint.manifest import (
    MANIFEST,
    DamagedError,
    FileRecord,
    Records,
    check_sizes,
    manifest_text,
    read_manifest,
)
from trainer.data.notices import tell_once

if TYPE_CHECKING:
    from trainer.parallel.grid import Grid

LATEST = "latest"


def step_folder(checkpoints: Path, step: int) -> Path:
    return checkpoints / f"step-{step:08d}"


def commit(checkpoints: Path, step: int, grid: Grid, write: Callable[[Path], Records]) -> Path:
    """Have all ranks write into a folder aside, then make it visible in one rename; a collective.

    `write` gets the folder aside, and returns what it has brought to the disk there and read back. No rank goes on
    before all have told that they could, so a failure on any of them leaves the earlier checkpoint in force; it is
    raised again on the rank it came from, and as OSError, naming that rank and what it said, on the others.
    """
    # Only ranks commit; finding a checkpoint is also done before there are any, and torch takes seconds.
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
        except Exception as error:
            failure = error
            told["error"] = f"{error}" if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
        answers = exchange(told, grid)
        guilty = [(rank, answer["error"]) for rank, answer in enumerate(answers) if "error" in answer]
        if guilty and grid.is_main:
            shutil.rmtree(aside, ignore_errors=True)  # a full disk needs the room
        if failure:
            raise failure
        if guilty:
            others = f", and {len(guilty) - 1} more" if len(guilty) > 1 else ""
            raise OSError(
                f"checkpoint of step {step} was given up, rank {guilty[0][0]}{others} could not write its part: "
                f"{guilty[0][1]}"
            )
        return {name: FileRecord(**file) for answer in answers for name, file in answer["files"].items()}

    def prepare() -> Records:
        if grid.is_main:
            shutil.rmtree(aside, ignore_errors=True)
            (aside / "training_state").mkdir(parents=True)
        return {}

    def publish() -> Records:
        if grid.is_main:
            write_text(aside / MANIFEST, manifest_text(step, records))
            for folder in (aside / "training_state", aside):
                _flush(folder)
            _remove(final)
            aside.rename(final)
            name_latest(checkpoints, final.name)
        return {}

    together(prepare)
    records = together(lambda: write(aside))
    together(publish)
    return final


def name_latest(checkpoints: Path, name: str) -> None:
    """Point `latest` at a committed folder; a reader sees the old name or the new one, nothing between."""
    _flush(checkpoints)  # the folder's own name comes to the disk before what points to it
    aside = checkpoints / f".{LATEST}.partial"
    aside.write_text(name + "\n", encoding="utf-8")
    _flush(aside)
    aside.rename(checkpoints / LATEST)
    _flush(checkpoints)


def committed(checkpoints: Path) -> list[Path]:
    """The checkpoints that a run may go on from: that which `latest` names, then the older ones, newest first.

    A missing or empty `latest` beside committed folders is answered by looking at the folders themselves, and
    a `latest` naming what is not there raises ConfigError: a run never starts over silently.
    """
    folders = sorted((folder for folder in checkpoints.glob("step-*") if folder.is_dir()), reverse=True)
    pointer = checkpoints / LATEST
    name = pointer.read_text(encoding="utf-8").strip() if pointer.is_file() else ""
    if not name:
        return folders
    if checkpoints / name not in folders:
        raise ConfigError(
            f"{pointer} names {name}, which is not there: write the name of a folder beside it into it, or set "
            "checkpoint.resume=never to start over"
        )
    return folders[folders.index(checkpoints / name) :]


def resume_folders(config: Config) -> list[Path]:
    """The checkpoints to go on from, the next where one is damaged; none for a fresh start. Raises ConfigError for a
    folder that is not there.

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
    if folder.resolve().parent == checkpoints.resolve():
        return [folder]
    return committed(checkpoints) or [folder]


def resume_folder(config: Config) -> Path | None:
    """The first checkpoint to go on from that looks whole, as far as a moment shows; None for a fresh start.

    Tells of each that does not. Raises ConfigError where none does.
    """
    return first_sound(
        resume_folders(config), lambda folder: check_sizes(folder, read_manifest(folder)), tell_once
    )


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
                f"{damage}. There is no other to go on from: name a whole one in checkpoint.resume, set model.path to "
                "this folder if its weights are to be begun with, or start afresh with checkpoint.resume=never"
            )
    return None


def prune(checkpoints: Path, keep: int | None) -> None:
    """Delete all but `keep` committed checkpoints, the one `latest` names and the newest others; None keeps all."""
    if not keep:
        return
    current = next(iter(committed(checkpoints)), None)
    others = sorted(f for f in checkpoints.glob("step-*") if f.is_dir() and f != current)
    for folder in others[: max(0, len(others) + 1 - keep)]:
        _remove(folder)


def _remove(folder: Path) -> None:
    """Take a committed folder's name away before its files, so that no half of it is ever seen under it."""
    gone = folder.with_name(f".{folder.name}.gone")
    shutil.rmtree(gone, ignore_errors=True)
    if folder.is_dir():
        folder.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
