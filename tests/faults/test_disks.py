"""R3, R4: a rank whose disk is slow, full or faulty in the middle of a save."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from faults import READ, Fault, Kind
from lab import NAMES, STEPS, Straight, visible
from observer import Observer, unflushed
from trials import LONG, Trials

from trainer.checkpoint.store import step_folder

OVER_S = 10
"""Seconds from the fault to the end of the job; asked for in the long run alone, which has the machine for itself."""
FEW = 40_000
"""Bytes of a file in a rank whose disk is full: those of tensors are larger."""
REFUSALS: list[tuple[Kind, str, int]] = [
    ("limit", "create", 0),
    ("errno", "write", errno.ENOSPC),
    ("errno", "write", errno.EDQUOT),
    ("errno", "create", errno.ENOSPC),
    ("errno", "fsync", errno.EIO),
    ("errno", READ, errno.EIO),
]
"""The kind of a fault, what it waits for, and what is said."""


def test_a_late_rank_is_waited_for(
    trials: Trials, straight: Callable[[str], Straight], tmp_path: Path
) -> None:
    held = "no checkpoint seen before all of it was there, and on the disk"
    for trial in trials("R3 one rank late in a save", held, few=3, of=50):
        event, run = trial.turn(("create", "write", "fsync")), straight(trial.turn(NAMES))
        rank = trial.turn(range(run.ranks))
        with trial:
            folder = run.at(2, tmp_path / str(trial.number))
            at = trial.random.randrange(run.calls(rank, event))
            with Observer(folder, run) as observer:
                ended = run.start(folder, [Fault(rank, "delay", 0.5, event, at)])
            assert ended.code == 0, ended.told
            assert ended.fired, "the call never came"
            assert not observer.bad, f"{observer.bad}\n{ended.told}"
            assert len(observer.seen) == STEPS - 1
            for step in range(3, STEPS + 1):
                early = unflushed(ended.events, step_folder(folder / "checkpoints", step))
                assert not early, f"not on the disk: {early}\n{ended.told}"
            run.compare(folder)
            shutil.rmtree(folder)


def test_a_disk_that_refuses(trials: Trials, straight: Callable[[str], Straight], tmp_path: Path) -> None:
    held = "the checkpoint before is whole; no rank ends well; rank, file and bytes are named"
    for trial in trials("R4 disk full, quota, EIO in a save", held, few=4, of=60):
        (kind, event, number), run = trial.turn(REFUSALS), straight(trial.turn(NAMES))
        rank = trial.turn(range(run.ranks))
        with trial:
            folder = run.at(2, tmp_path / str(trial.number))
            at = 0 if kind == "limit" else trial.random.randrange(run.calls(rank, event))
            ended = run.start(folder, [Fault(rank, kind, number or FEW, event, at)])
            assert ended.fired, "the call never came"
            assert not ended.hung(), ended.told
            trial.seconds = ended.after_s
            assert trial.seconds < OVER_S or not LONG, ended.told
            assert len(ended.messages()) == run.ranks, ended.told
            assert max(visible(folder)) >= ended.saving - 1, ended.told
            messages = ended.messages()
            said = os.strerror(number or errno.EFBIG)
            assert all(said in message and str(folder) in message for message in messages.values()), (
                ended.told
            )
            if event == "write" or kind == "limit":
                assert "bytes were written" in messages[rank], ended.told
            del messages[rank]
            assert all(f"rank {rank} could not write" in message for message in messages.values()), ended.told
            run.finish(folder)
            shutil.rmtree(folder)
