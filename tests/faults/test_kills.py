"""R1, R2, R9: ranks that are killed, that raise or leave, at any time and at each call of a save."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from itertools import groupby, zip_longest
from pathlib import Path
from random import Random

import pytest
from faults import BATCH, CHANGES, CLOCK, READ, SAVE, Fault, kill
from lab import NAMES, STEPS, Ended, Event, Straight, measured, visible
from trials import LONG, SEED, Trials

KEEP = "checkpoint.keep=2"
GONE_S = 2
"""Seconds from a rank's end to that of all; asked for in the long run alone, which has the machine for itself."""


def test_any_rank_at_any_time(trials: Trials, straight: Callable[[str], Straight], tmp_path: Path) -> None:
    held = "resumed bit by bit: weights, moments, rates, random states, losses"
    for trial in trials("R1 SIGKILL of any rank at any time", held, few=2, of=200):
        random = trial.random
        run, folder = straight(trial.turn((*NAMES, "TP2 PP2"))), tmp_path / str(trial.number)
        ranks = [trial.turn(range(run.ranks)), *random.choice(([], [], [random.randrange(run.ranks)]))]
        with trial:
            settings = [KEEP, f"checkpoint.background={random.choice(('true', 'false'))}"]
            for rank in ranks:
                fault = kill(rank, CLOCK, random.uniform(0, run.seconds))
                ended = run.start(folder, [fault], *settings)
                assert not ended.hung(), ended.told
                steps = len(measured(folder)) if (folder / "metrics.jsonl").is_file() else 0
                # The step after the last recorded one may have begun, and the one before it be still on its way.
                assert max(visible(folder), default=0) >= steps - 2, ended.told
            run.finish(folder, *settings)
            shutil.rmtree(folder)


@pytest.mark.parametrize("name", NAMES if LONG else NAMES[:1])
def test_any_call_of_a_save(
    name: str, trials: Trials, straight: Callable[[str], Straight], tmp_path: Path
) -> None:
    """Two saves, the first in the background, and the removal of an old checkpoint after them."""
    run = straight(name)
    dry = run.start(run.at(2, tmp_path / "dry"), (), KEEP)
    assert dry.code == 0, dry.told
    calls = [[(rank, at) for at in boundaries(dry, rank)] for rank in range(run.ranks)]
    for each in calls:
        Random(f"{SEED} {name}").shuffle(each)
    points = [
        point for points in zip_longest(*calls) for point in points if point
    ]  # neighbours are other ranks'
    fault = f"R2 SIGKILL at each call of a save, {name}"
    held = "the last committed one loads; none is half there; one interval lost"
    for trial in trials(fault, held, few=2, of=len(points)):
        with trial:
            rank, at = points[trial.number]
            folder = run.at(2, tmp_path / str(trial.number))
            ended = run.start(folder, [kill(rank, SAVE, at)], KEEP)
            assert ended.fired, "the call never came"
            assert not ended.hung(), ended.told
            assert max(visible(folder)) >= max(ended.saving - 1, ended.named), ended.told
            run.finish(folder, KEEP)
            shutil.rmtree(folder)


def boundaries(ended: Ended, rank: int) -> list[int]:
    """Numbers of the calls by which a rank's saves are to be cut: all, but of a file's writes the first, the last and
    one between."""
    calls = [event for event in ended.events if event.rank == rank and event.event in CHANGES]
    assert any(call.event == "write" and "training_state/" in call.path for call in calls), (
        "writes are not seen"
    )
    written = {call.path for call in calls if call.event == "write" and call.path.endswith(".safetensors")}
    read = {event.path for event in ended.events if event.rank == rank and event.event == READ}
    assert written, "no tensors are seen"
    assert written <= read, f"not read back: {written - read}"

    def writes(numbered: tuple[int, Event]) -> object:
        number, call = numbered
        return call.path if call.event == "write" else number

    chosen: list[int] = []
    for _, group in groupby(enumerate(calls), writes):
        numbers = [number for number, _ in group]
        chosen += sorted({numbers[0], numbers[len(numbers) // 2], numbers[-1]})
    return chosen


def test_a_rank_that_fails_takes_the_others_along(
    trials: Trials, straight: Callable[[str], Straight], tmp_path: Path
) -> None:
    held = "every process gone, by an error that is told, and nothing lost"
    kinds = [Fault(0, "raise"), Fault(0, "starve"), Fault(0, "exit"), Fault(0, "signal", signal.SIGKILL)]
    for trial in trials("R9 a rank raises, has no data, leaves with 0, is killed", held, few=4, of=200):
        planted, run = trial.turn(kinds), straight(trial.turn(NAMES))
        rank, step = trial.turn(range(run.ranks)), trial.turn(range(STEPS - 2))
        with trial:
            folder = run.at(2, tmp_path / str(trial.number))
            ended = run.start(folder, [Fault(rank, planted.kind, planted.value, BATCH, step)], KEEP)
            trial.seconds = ended.after_s
            assert trial.seconds < GONE_S or not LONG, ended.told
            assert not ended.hung(), ended.told
            assert len(ended.messages()) == run.ranks, ended.told
            if planted.kind in ("raise", "starve"):
                assert "planted: " in ended.messages()[rank], ended.told
            assert max(visible(folder)) >= 2 + step - 1, ended.told
            run.finish(folder, KEEP)
            shutil.rmtree(folder)
