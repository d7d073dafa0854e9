"""What the documentation says of both schedules' time and memory, counted from DeepSpeed's schedules."""

from __future__ import annotations

import pytest

from benchmarks.pipeline_slots import Pass, in_flight, programs, step_slots
from configs.schema import Schedule
from trainer.plan.speed import bubble

RANKS = (2, 3, 4, 8)
TIMES = (2, 3, 8)
"""Micro-batches for each rank."""


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize(("forward", "backward"), [(1.0, 1.0), (1.0, 2.0), (2.0, 5.0)])
def test_1f1b_waits_as_published(ranks: int, forward: float, backward: float) -> None:
    """Narayanan et al. 2021: (p - 1) / (m + p - 1) of the time, whatever the passes take."""
    for micro in (times * ranks for times in TIMES):
        slots = step_slots("1f1b", ranks, micro, forward, backward)
        assert slots == pytest.approx(2 * (micro + ranks - 1) * (forward + backward))
        assert 1 - 2 * micro * (forward + backward) / slots == pytest.approx(bubble(ranks, micro))


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("backward", [2.0, 2.5, 3.0])
def test_dualpipev_saves_a_forward_slot_for_each_rank(ranks: int, backward: float) -> None:
    """And no more, however many micro-batches; with a backward pass of two forward passes or longer."""
    for micro in (times * ranks for times in TIMES):
        saved = step_slots("1f1b", ranks, micro, 1.0, backward) - step_slots(
            "dualpipev", ranks, micro, 1.0, backward
        )
        assert saved == pytest.approx(ranks)


@pytest.mark.parametrize("ranks", RANKS)
def test_what_is_in_flight(ranks: int) -> None:
    """Under DualPipeV 2p + 1 half stages on every rank; under 1F1B p on the first, one on the last."""
    for micro in (times * ranks for times in TIMES):
        straight = in_flight("1f1b", ranks, micro)
        assert straight == [(min(micro, ranks - rank),) for rank in range(ranks)]
        folded = in_flight("dualpipev", ranks, micro)
        assert folded == [(2 * ranks - rank, rank + 1) for rank in range(ranks)]


@pytest.mark.parametrize("ranks", RANKS)
def test_dualpipev_sends_twice_as_many_messages(ranks: int) -> None:
    def sent(schedule: Schedule) -> list[int]:
        told = programs(schedule, ranks, 4 * ranks)
        batches = ([action for action in program if not isinstance(action, Pass)] for program in told)
        return [sum(message.sent for batch in rank for message in batch) for rank in batches]

    assert sent("dualpipev") == [2 * count for count in sent("1f1b")]
