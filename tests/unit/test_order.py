"""The order inside a source: exact permutations that look random, computed place by place."""

from __future__ import annotations

from collections import Counter
from itertools import permutations
from math import factorial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.data.order import SourceOrder, permuted


def order(seed: int, source: str, epoch: int, rows: int) -> list[int]:
    return permuted(seed, source, epoch, rows, np.arange(rows)).tolist()


@given(
    seed=st.integers(-5, 2**40), rows=st.integers(1, 400), epoch=st.integers(0, 9), name=st.text(max_size=5)
)
def test_each_pass_is_an_exact_permutation(seed: int, rows: int, epoch: int, name: str):
    assert sorted(order(seed, name, epoch, rows)) == list(range(rows))


@pytest.mark.parametrize("rows", [4095, 4096, 4097, 99_991, 10**6])
def test_of_many_rows_too(rows: int):
    assert np.array_equal(np.sort(permuted(1, "a", 0, rows, np.arange(rows))), np.arange(rows))


@given(rows=st.integers(1, 10**12), place=st.integers(0, 10**12), epoch=st.integers(0, 3))
def test_a_place_is_computed_alone(rows: int, place: int, epoch: int):
    """Of a million million rows as well: no list is held."""
    place %= rows
    (row,) = permuted(7, "a", epoch, rows, np.array([place])).tolist()
    assert 0 <= row < rows
    others = np.unique(np.clip(np.arange(place - 3, place + 4), 0, rows - 1))
    assert permuted(7, "a", epoch, rows, others).tolist()[others.tolist().index(place)] == row


def test_passes_sources_and_seeds_differ():
    orders = [tuple(order(*key, 50)) for key in ((1, "a", 0), (1, "a", 1), (1, "b", 0), (2, "a", 0))]
    assert len(set(orders)) == 4


@pytest.mark.parametrize("rows", [2, 3, 4, pytest.param(5, marks=pytest.mark.long)])
def test_every_order_of_a_few_rows_is_as_likely(rows: int):
    """Pearson's chi-squared over all orders; 1.8 times its mean is beyond its 99th percentile from 5 degrees on."""
    seeds = 200 * factorial(rows)
    found = Counter(tuple(order(seed, "a", 0, rows)) for seed in range(seeds))
    expected = seeds / factorial(rows)
    squares = sum((found[each] - expected) ** 2 / expected for each in permutations(range(rows)))
    assert squares / (factorial(rows) - 1) < 1.8


def test_rows_stand_anywhere_and_next_to_anything():
    """The first 40 places of 1000 orders of 1000 rows, in 40 bins each: 1,560 degrees of freedom a side."""
    first = np.array([permuted(seed, "a", 0, 1000, np.arange(40)) for seed in range(1000)])  # [seeds, places]
    bins = first // 25
    counts = np.array([np.bincount(column, minlength=40) for column in bins.T])
    assert ((counts - 25) ** 2 / 25).sum() / 1560 == pytest.approx(1, abs=0.15)
    steps = np.diff(first, axis=1) % 1000 // 25
    counts = np.bincount(steps.ravel(), minlength=40)
    assert np.abs(counts / steps.size - 1 / 40).max() < 0.004


def test_the_order_is_the_same_in_every_release():
    assert order(1234, "agent", 0, 8) == [2, 7, 6, 3, 5, 1, 0, 4]
    assert permuted(1234, "agent", 3, 10**9, np.array([0, 1, 999_999_999])).tolist() == [
        408272029,
        61558031,
        190379538,
    ]


def test_draws_walk_pass_after_pass():
    draws = SourceOrder(3, "a", 5)
    forth = [draws.row(k) for k in range(20)]
    assert [sorted(forth[k : k + 5]) for k in range(0, 20, 5)] == [list(range(5))] * 4
    assert forth[5:10] == order(3, "a", 1, 5)
    assert [draws.row(k) for k in reversed(range(20))] == forth[::-1]


def test_blocks_join():
    draws = SourceOrder(3, "a", 2500)
    assert [draws.row(k) for k in range(5000)] == order(3, "a", 0, 2500) + order(3, "a", 1, 2500)
