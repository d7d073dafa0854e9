"""Checkpoint folders of a run: written aside, made visible by a rename, named by `latest`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from configs.errors import ConfigError
from configs.schema import Config

if TYPE_CHECKING:
    from trainer.parallel.grid import Grid

LATEST = "latest"


def step_folder(checkpoints: Path, step: int) -> Path:
    return checkpoints / f"step-{step:08d}"


def commit(checkpoints: Path, step: int, grid: Grid, write: Callable[[Path], None]) -> Path:
    """Have all ranks write into a folder aside, then make it visible in one rename; a collective.

    `write` gets the folder aside. Every rank's success is gathered before the rename, so a failure on any of
    them leaves the earlier checkpoint in force; it is raised again here on the rank it came from, and as
    OSError naming that rank on the others.
    """
    # Only ranks commit; finding a checkpoint is also done before there are any, and torch takes seconds.
    import torch
    import torch.distributed as dist

    final = step_folder(checkpoints, step)
    aside = checkpoints / f".{final.name}.partial"
    if grid.is_main:
        shutil.rmtree(aside, ignore_errors=True)
        (aside / "training_state").mkdir(parents=True)
    dist.barrier()
    failure: Exception | None = None
    try:
        write(aside)
    except Exception as error:
        failure = error
    guilty = torch.tensor(grid.rank if failure else -1, device=grid.device)
    dist.all_reduce(guilty, dist.ReduceOp.MAX)
    if guilty >= 0 and grid.is_main:
        shutil.rmtree(aside, ignore_errors=True)  # a full disk needs the room
    if failure:
        raise failure
    if guilty >= 0:
        raise OSError(f"checkpoint of step {step} was given up: rank {int(guilty)} could not write its part")
    if grid.is_main:
        for file in sorted(aside.rglob("*")):
            _flush(file)
        _flush(aside)
        _remove(final)
        aside.rename(final)
        name_latest(checkpoints, final.name)
    dist.barrier()
    return final


def name_latest(checkpoints: Path, name: str) -> None:
    """Point `latest` at a committed folder; a reader sees the old name or the new one, nothing between."""
    aside = checkpoints / f".{LATEST}.partial"
    aside.write_text(name + "\n", encoding="utf-8")
    _flush(aside)
    aside.rename(checkpoints / LATEST)
    _flush(checkpoints)


def find_latest(checkpoints: Path) -> Path | None:
    """The newest committed checkpoint, None where there is none.

    A missing or empty `latest` beside committed folders is answered by looking at the folders themselves, and
    a `latest` naming what is not there raises ConfigError: a run never starts over silently.
    """
    folders = sorted(folder for folder in checkpoints.glob("step-*") if folder.is_dir())
    pointer = checkpoints / LATEST
    name = pointer.read_text(encoding="utf-8").strip() if pointer.is_file() else ""
    if not name:
        return folders[-1] if folders else None
    if not (checkpoints / name).is_dir():
        raise ConfigError(
            f"{pointer} names {name}, which is not there: write the name of a folder beside it into it, or set "
            "checkpoint.resume=never to start over"
        )
    return checkpoints / name


def resume_folder(config: Config) -> Path | None:
    """The checkpoint to go on from, None for a fresh start. Raises ConfigError for a folder that is not there.

    A folder of another run is where this run begins; once it has checkpoints of its own it goes on from those.
    One of its own is gone back to.
    """
    resume = config.checkpoint.resume
    checkpoints = Path(config.run.output_dir) / "checkpoints"
    if resume == "never":
        return None
    if resume == "auto":
        return find_latest(checkpoints)
    folder = Path(resume)
    if not folder.is_dir():
        raise ConfigError(f"checkpoint.resume={resume}: no such folder; name a checkpoint, auto or never")
    if folder.resolve().parent == checkpoints.resolve():
        return folder
    return find_latest(checkpoints) or folder


def prune(checkpoints: Path, keep: int | None) -> None:
    """Delete all but `keep` committed checkpoints, the one `latest` names and the newest others; None keeps all."""
    if not keep:
        return
    current = find_latest(checkpoints)
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
