from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenization.sample import TokenizedSample
from trainer.data.packing import choose, pack_row
from trainer.data.rows import IGNORED


def sample(trained: list[bool], id: str = "x") -> TokenizedSample:
    n = len(trained)
    return TokenizedSample(
        "s",
        id,
        np.arange(100, 100 + n, dtype=np.int32),
        np.array(trained, bool),
        np.zeros(n, np.uint8),
    )


# choose


@settings(deadline=None, max_examples=200)
@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=9), extra=st.integers(0, 40))
def test_the_oldest_leads_and_no_selection_fills_more(lengths: list[int], extra: int):
    capacity = max(lengths) + extra
    chosen = choose(lengths, capacity)
    assert chosen[0] == 0
    assert chosen == sorted(set(chosen))
    filled = sum(lengths[i] for i in chosen)
    others = range(1, len(lengths))
    sums = [
        lengths[0] + sum(lengths[i] for i in rest)
        for size in range(len(lengths))
        for rest in combinations(others, size)
    ]
    assert filled == max(total for total in sums if total <= capacity)
    # The newest sample it takes is as old as it can be, and so is the next newest beside it, and so on.
    best = [
        tuple(reversed(rest))
        for size in range(len(lengths))
        for rest in combinations(others, size)
        if lengths[0] + sum(lengths[i] for i in rest) == filled
    ]
    assert tuple(reversed(chosen[1:])) == min(best)


@settings(deadline=None)
@given(
    lengths=st.lists(st.integers(1, 64), min_size=1, max_size=120),
    window=st.integers(1, 16),
    capacity=st.integers(64, 100),
)
def test_every_sample_gets_into_one_row_and_waits_for_less_than_a_window(
    lengths: list[int], window: int, capacity: int
):
    waiting: list[int] = []
    came: dict[int, int] = {}
    placed: list[int] = []
    row = ahead = 0
    while ahead < len(lengths) or waiting:
        while len(waiting) < window and ahead < len(lengths):
            came[ahead] = row
            waiting.append(ahead)
            ahead += 1
        taken = [waiting[i] for i in choose([lengths[i] for i in waiting], capacity)]
        assert sum(lengths[i] for i in taken) <= capacity
        assert all(row - came[i] < window for i in taken)
        placed += taken
        waiting = [i for i in waiting if i not in taken]
        row += 1
    assert sorted(placed) == list(range(len(lengths)))


@pytest.mark.parametrize("spread", [0.8, 1.2])
def test_rows_of_4096_fill_from_a_window_of_256(spread: float):
    random = np.random.default_rng(7)
    drawn = np.clip(random.lognormal(np.log(400) - spread**2 / 2, spread, 6000), 1, 4096).astype(int).tolist()
    waiting, filled = drawn[:256], []
    ahead = 256
    while ahead < len(drawn):
        chosen = set(choose(waiting, 4096))
        filled.append(sum(waiting[i] for i in chosen))
        waiting = [length for i, length in enumerate(waiting) if i not in chosen]
        waiting += drawn[ahead : ahead + 256 - len(waiting)]
        ahead += len(chosen)
    assert len(filled) > 400
    assert np.mean(filled) / 4096 >= 0.9995


def test_lengths_that_fit_no_row_are_refused():
    for lengths in ([3, 9], [0, 3]):
        with pytest.raises(ValueError, match="capacity 8"):
            choose(lengths, 8)


# pack_row


def test_a_row_written_out_by_hand():
    first = replace(sample([False, True, True], id="a"), kinds=np.array([2, 3, 8], np.uint8))
    second = sample([False, False], id="b")
    row = pack_row([first, second], [2, 1], index=5, length=8, pad_id=9)
    no = IGNORED
    assert row.tokens.tolist() == [100, 101, 102, 100, 101, 9, 9, 9]
    assert row.labels.tolist() == [no, 101, 102, no, no, no, no, no]
    assert row.positions.tolist() == [0, 1, 2, 0, 1, 0, 1, 2]
    assert row.sources.tolist() == [2, 2, 2, 1, 1, 0, 0, 0]
    assert row.kinds.tolist() == [2, 3, 8, 0, 0, 0, 0, 0]
    assert row.kinds.dtype == np.uint8
    assert (row.index, row.filled, row.samples) == (5, 5, (("s", "a"), ("s", "b")))
    assert {a.dtype for a in (row.tokens, row.labels, row.positions, row.sources)} == {np.dtype(np.int32)}


def test_a_full_row_has_no_padding_and_an_overfull_one_is_refused():
    row = pack_row([sample([False, True])] * 2, [0, 0], index=0, length=4, pad_id=9)
    assert row.positions.tolist() == [0, 1, 0, 1]
    assert row.filled == 4
    with pytest.raises(ValueError, match="row 3: 4 tokens do not fit into 3"):
        pack_row([sample([False, True])] * 2, [0, 0], index=3, length=3, pad_id=9)
