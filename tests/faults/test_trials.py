"""That trials which take kinds in turn leave none out."""

from __future__ import annotations

from math import prod

from hypothesis import given
from hypothesis import strategies as st
from trials import Trial

LENGTHS = st.lists(st.integers(1, 6), min_size=1, max_size=4)


def turns(number: int, lengths: list[int]) -> tuple[int, ...]:
    trial = Trial(number, "test")
    return tuple(trial.turn(range(length)) for length in lengths)


@given(LENGTHS, st.integers(0, 100))
def test_each_combination_comes_once(lengths: list[int], first: int) -> None:
    combinations = prod(lengths)
    numbers = range(first * combinations, (first + 1) * combinations)
    assert len({turns(number, lengths) for number in numbers}) == combinations


@given(st.lists(st.integers(2, 6), min_size=2, max_size=4), st.integers(0, 1000))
def test_neighbours_differ_in_all(lengths: list[int], number: int) -> None:
    """As long as they are within one round of the first."""
    before, after = (turns(each, lengths) for each in (number, number + 1))
    if (number + 1) % lengths[0]:
        assert all(a != b for a, b in zip(before, after, strict=True)), (before, after)
