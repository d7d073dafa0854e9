"""What `agenttune verify` compares with: gradients slice by slice, samples replaced, sums by sample."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise
from math import inf
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tokenization.sample import TokenizedSample
from trainer.data.micro_batch import GlobalBatch
from trainer.data.packing import pack_row
from trainer.data.rows import IGNORED, PackedRow
from trainer.verify.gradients import Apart, Slice, blame, measure
from trainer.verify.isolation import lost_positions, replaced, stream_leaks, unlike_restarts, with_neighbours
from trainer.verify.limits import differs, relative
from trainer.verify.places import Place, sample_losses

LENGTH = 24
SIZES = st.lists(st.integers(2, 8), min_size=1, max_size=3)


def row(sizes: list[int], index: int = 0) -> PackedRow:
    """Samples of these sizes, every second token a target, and padding."""
    generator = random.Random(index)
    made = [
        TokenizedSample(
            source="s",
            id=str(number),
            tokens=np.array([generator.randrange(3, 50) for _ in range(size)], np.int32),
            trained=np.arange(size) % 2 == 1,
            kinds=np.zeros(size, np.uint8),
        )
        for number, size in enumerate(sizes)
    ]
    return pack_row(made, [0] * len(sizes), index=index, length=LENGTH, pad_id=0)


@given(st.lists(SIZES, min_size=1, max_size=4), st.integers(0, 9))
def test_one_sample_of_each_row_is_replaced(sizes: list[list[int]], seed: int) -> None:
    batch = GlobalBatch(tuple(row(each, index) for index, each in enumerate(sizes)))
    other, changed = replaced(batch, 50, seed)
    for before, after, sample, each in zip(batch.rows, other.rows, changed, sizes, strict=True):
        start, stop = sum(each[:sample]), sum(each[: sample + 1])
        differs_ = before.tokens != after.tokens
        assert differs_[start:stop].all()
        assert not differs_[:start].any()
        assert not differs_[stop:].any()
        assert ((before.labels == IGNORED) == (after.labels == IGNORED)).all()
        assert (after.labels[after.labels != IGNORED] == after.tokens[after.labels != IGNORED]).all()
        assert after.tokens.min() >= 0
        assert after.tokens.max() < 50


@given(SIZES)
def test_a_sample_alone_is_cut_in_two(sizes: list[int]) -> None:
    before = row(sizes)
    after = with_neighbours(before)
    assert (after is before) == (len(sizes) > 1)
    assert len(after.samples) >= 2
    assert not list(unlike_restarts([after]))
    GlobalBatch((after,)).micro_batches(0, 1, 1)  # raises where a sample's first token is a target


@given(SIZES, st.integers(0, LENGTH - 1))
def test_positions_that_do_not_restart_are_found(sizes: list[int], place: int) -> None:
    sound = row(sizes)
    assert not list(unlike_restarts([sound]))
    positions = sound.positions.copy()
    positions[place] += 1
    assert list(unlike_restarts([replace(sound, positions=positions)]))


def micro_losses(batch: GlobalBatch, place: Place) -> tuple[list[torch.Tensor], list[Any]]:
    """For each target a loss that tells its row and its place, in the order [s, b] of a micro-batch."""
    micros = batch.micro_batches(place.data_rank, place.data, place.micro_rows)
    losses: list[torch.Tensor] = []
    for number, micro in enumerate(micros):
        values = [
            100.0 * place.row(number, b) + s
            for s in range(LENGTH)
            for b in range(place.micro_rows)
            if micro.labels[b, s] != IGNORED
        ]
        losses += [torch.tensor(values)] if values else []
    return losses, micros


@pytest.mark.parametrize(
    "place", [Place(0, 1, 1), Place(0, 1, 2), Place(1, 2, 1), Place(0, 2, 2)], ids=lambda place: str(place)
)
def test_losses_are_summed_by_sample(place: Place) -> None:
    sizes = [[5, 7], [3], [2, 2, 8], [9, 4]]
    batch = GlobalBatch(tuple(row(each, index) for index, each in enumerate(sizes)))
    found = sample_losses(*micro_losses(batch, place)[:1], batch, place, micro_losses(batch, place)[1])
    own = [r for r in range(4) if r // place.micro_rows % place.data == place.data_rank]
    expected = []
    for r in own:
        for sample, (start, stop) in enumerate(pairwise(np.cumsum([0, *sizes[r]]).tolist())):
            targets = [s for s in range(start, stop) if (s - start) % 2 == 1]
            expected.append((r, sample, float(sum(100 * r + s - 1 for s in targets))))  # predicted one before
    assert sorted(found) == sorted(expected)


@pytest.mark.parametrize("part", [(0, 1), (0, 2), (1, 2)])
def test_a_leak_is_placed(part: tuple[int, int]) -> None:
    batch = GlobalBatch((row([8, 8], 0), row([12, 6], 1)))
    place = Place(0, 1, 2)
    micros = batch.micro_batches(0, 1, 2)
    length = LENGTH // part[1]
    mine = slice(part[0] * length, (part[0] + 1) * length)
    before = torch.ones(LENGTH, 2, 3)
    after = before.clone()
    after[2, 0] += 0.5  # of the sample replaced in row 0
    after[13, 1] += 0.25  # of sample 1 in row 1, of which sample 0 is replaced
    positions = micros[0].positions

    def streams(hidden: torch.Tensor) -> Any:
        return {4: [(hidden[mine], positions, positions)]}

    (found,) = stream_leaks(streams(before), streams(after), batch, place, micros, [0, 0], part)
    assert found["layer"] == 4
    if part == (0, 2):
        assert (found["others"], found["own"]) == (0.0, 0.5)
    else:
        assert found["others"] == 0.25
        assert found["where"] == (1, 1)
    assert lost_positions(streams(before), micros) == []
    wrong = {4: [(before, positions, positions.flip(0))]}
    assert lost_positions(wrong, micros) == ["layer 4 gave on other positions than its rows have"]


def one(name: str, found: list[float], expected: list[float], rank: int = 0) -> Slice:
    return Slice(name, rank, np.array(found, np.float32), np.array(expected, np.float32))


def test_the_worst_slice_is_named() -> None:
    slices = [
        one("a", [3, 4], [3, 4]),
        one("b", [3, 4], [6, 8], rank=1),
        one("b", [6, 8], [6, 8]),
        one("c", [0, 1e-9], [0, 0]),  # by so much of all gradients
    ]
    found = measure(slices, ["a", "b", "c"], total=10.0, limit=1e-4)
    assert found == Apart(3, "b on rank 1", pytest.approx(0.5), pytest.approx(0.5), ("b",))  # pyright: ignore


@pytest.mark.parametrize("bad", [[float("nan"), 1.0], [1.0], [1.0, inf]])
def test_what_is_no_gradient_is_infinitely_far(bad: list[float]) -> None:
    found = measure([one("a", bad, [1, 1])], ["a"], 1.0, 1e-4)
    assert found.relative == inf


def test_a_parameter_nobody_tells_of_is_infinitely_far() -> None:
    found = measure([one("a", [1], [1])], ["a", "b"], 1.0, 1e-4)
    assert (found.worst, found.relative) == ("b, of which no rank told", inf)


@pytest.mark.parametrize(
    ("layout", "serial", "says"),
    [
        ((), (), "norm is not taken over every slice once"),
        (("model.norm.weight",), (), "not summed over the tensor ranks"),
        (("model.norm.weight", "lm_head.weight"), (), "mean of each micro-batch"),
        (("lm_head.weight",), ("lm_head.weight",), "one process is wrong too"),
        (("lm_head.weight",), (), "a sum over ranks is missing"),
    ],
)
def test_what_kind_of_fault(layout: tuple[str, ...], serial: tuple[str, ...], says: str) -> None:
    made = (Apart(2, "w", 1.0 if wrong else 0.0, 0.5, wrong) for wrong in (layout, serial))
    assert says in blame(*made)


def test_numbers() -> None:
    assert relative(1.5, 1.0) == 0.5
    assert relative(None, 1.0) == relative(float("nan"), 1.0) == relative(1.0, inf) == inf
    assert differs(0.0, 1e-6) == "differs by 0, limit 1e-06"
