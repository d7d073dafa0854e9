"""Which steps are left out: by hand, and as properties of any sequence of losses and norms."""

from __future__ import annotations

import json
from dataclasses import replace
from math import inf, isfinite, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.schema import BatchConfig, Config, GuardConfig, RunConfig
from trainer.guard import Guard, GuardError

RUN = Config(run=RunConfig("runs/mine"), batch=BatchConfig(rows=8))
CONFIG = GuardConfig(loss=10.0, gradient=100.0, window=4, patience=3)
NUMBERS = st.one_of(st.floats(0, 100), st.just(1e30), st.just(nan), st.just(inf))


def after(*steps: tuple[float, float], config: GuardConfig = CONFIG, guard: Guard | None = None) -> Guard:
    """As the step does it."""
    guard = guard or Guard()
    for number, (loss, norm) in enumerate(steps, 1):
        fault = guard.fault(loss, norm, config)
        guard = guard.left_out() if fault else guard.taken(loss, norm, config)
        if error := guard.given_up(number, fault, replace(RUN, guard=config)):
            raise error
    return guard


@pytest.mark.parametrize(
    ("loss", "norm", "fault"),
    [
        (
            20.0,
            100.0,
            "",
        ),  # ten times the median of 1, 2, 2, 3, and a hundred times that of 1, 1, 1, 2: no more
        (20.1, 1.0, "loss 20.1 is more than 10 times 2, the median of 4 steps"),
        (2.0, 100.1, "gradient norm 100.1 is more than 100 times 1, the median of 4 steps"),
        (nan, 1.0, "loss nan, gradient norm 1.0"),
        (2.0, inf, "loss 2.0, gradient norm inf"),
        (-inf, nan, "loss -inf, gradient norm nan"),
        (0.0, 0.0, ""),
    ],
)
def test_by_hand(loss: float, norm: float, fault: str) -> None:
    guard = after(
        (50.0, 50.0), (3.0, 1.0), (2.0, 1.0), (1.0, 2.0), (2.0, 1.0)
    )  # the first has left the window
    assert guard.fault(loss, norm, CONFIG) == fault


def test_no_spike_before_half_a_window() -> None:
    assert after((1.0, 1.0)).fault(1e9, 1e9, CONFIG) == ""
    assert "spike" not in after((1.0, 1.0), (1.0, 1.0)).fault(1e9, 1.0, CONFIG)
    assert after((1.0, 1.0), (1.0, 1.0)).fault(1e9, 1.0, CONFIG)


def test_none_turns_a_spike_off_but_never_what_is_no_number() -> None:
    off = GuardConfig(loss=None, gradient=None, window=4)
    guard = after((1.0, 1.0), (1.0, 1.0), config=off)
    assert guard.fault(1e30, 1e30, off) == ""
    assert guard.fault(nan, 1.0, off)
    assert guard.fault(1.0, inf, off)


def test_rows_learned_by_heart_make_no_spike_of_the_next() -> None:
    guard = after(*[(1e-4, 1e-5)] * 4)
    assert guard.fault(0.9, 0.9, CONFIG) == ""
    assert guard.fault(1.1, 0.9, CONFIG)


def test_too_many_in_a_row_end_the_run_and_others_do_not() -> None:
    well, bad = (1.0, 1.0), (nan, 1.0)
    assert after(well, bad, bad, well, bad, bad).skipped == 4
    with pytest.raises(
        GuardError, match=r"step 4: loss nan.*3 steps in a row.*guard.patience is 3.*are as they were before"
    ):
        after(well, bad, bad, bad)


@given(st.lists(st.tuples(NUMBERS, NUMBERS), max_size=40), st.integers(1, 9), st.integers(0, 40))
def test_what_is_remembered_is_bounded_finite_and_survives_json(
    steps: list[tuple[float, float]], window: int, saved: int
) -> None:
    config = GuardConfig(window=window, patience=1000)
    guard = after(*steps, config=config)
    assert len(guard.losses) == len(guard.norms) <= window
    assert all(map(isfinite, guard.losses + guard.norms))
    assert guard.skipped >= sum(not (isfinite(loss) and isfinite(norm)) for loss, norm in steps)
    resumed = Guard.from_json(json.loads(json.dumps(after(*steps[:saved], config=config).as_json())))
    assert after(*steps[saved:], config=config, guard=resumed) == guard
