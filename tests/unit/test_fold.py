"""Folding a layout to few processes, and the small model that runs in its place."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.layout import Layout
from configs.schema import Schedule
from configs.shapes import SHAPES, ModelShape
from trainer.verify.fold import batch_rows, fold
from trainer.verify.small_shape import small_shape

SIZES = st.integers(1, 16)
LAYOUTS = st.builds(Layout, SIZES, SIZES, SIZES, st.booleans(), st.sampled_from(get_args(Schedule)))
RANKS = st.integers(1, 24)


@pytest.mark.parametrize(
    ("asked", "ranks", "folded"),
    [
        ((8, 4, 2), 8, (2, 3, 1)),  # the stages come first
        ((8, 4, 2), 12, (2, 3, 2)),
        ((8, 4, 2), 4, (1, 3, 1)),
        ((4, 1, 2), 8, (4, 1, 2)),  # as it is
        ((8, 1, 8), 8, (4, 1, 2)),
        ((1, 2, 16), 8, (1, 2, 2)),  # no more copies than show
        ((8, 8, 1), 2, (1, 2, 1)),
        ((16, 1, 1), 1, (1, 1, 1)),
    ],
)
def test_by_hand(asked: tuple[int, int, int], ranks: int, folded: tuple[int, int, int]) -> None:
    assert fold(Layout(*asked), ranks, 4096) == Layout(*folded)


def test_tensor_ranks_divide_the_row() -> None:
    assert fold(Layout(9, 1, 1, sequence=True), 8, 9 * 27).tensor == 3


@given(LAYOUTS, RANKS, st.integers(1, 64))
def test_it_fits_and_is_no_longer_than_asked(asked: Layout, ranks: int, rows: int) -> None:
    length = rows * asked.tensor  # as `check_config` wants it
    layout = fold(asked, ranks, length)
    assert layout.world_size <= ranks
    assert layout.sequence == asked.sequence
    assert (layout.tensor, layout.pipeline, layout.data) <= (asked.tensor, asked.pipeline, asked.data)
    assert layout.pipeline <= asked.pipeline
    assert layout.data <= asked.data
    assert not asked.sequence or length % layout.tensor == 0
    assert asked.world_size > ranks or layout == asked
    assert layout.schedule == asked.schedule or layout.pipeline == 1


@given(LAYOUTS, st.integers(3, 24), st.integers(1, 64))
def test_a_middle_stage_stays(asked: Layout, ranks: int, rows: int) -> None:
    layout = fold(asked, ranks, rows * asked.tensor)
    assert layout.pipeline >= min(asked.pipeline, 3)


@given(LAYOUTS, st.integers(12, 24), st.integers(1, 64))
def test_with_twelve_processes_every_kind_stays(asked: Layout, ranks: int, rows: int) -> None:
    asked = replace(asked, sequence=False)
    layout = fold(asked, ranks, rows * asked.tensor)
    assert layout.tensor >= min(asked.tensor, 2)
    assert layout.pipeline >= min(asked.pipeline, 3)
    assert layout.data >= min(asked.data, 2)


@given(LAYOUTS, RANKS, st.integers(1, 40_000))
def test_a_batch_has_two_rows_for_each_copy(asked: Layout, ranks: int, length: int) -> None:
    layout = fold(replace(asked, sequence=False), ranks, length)
    rows = batch_rows(layout, length, 32_000)
    assert rows % (2 * layout.data) == 0  # micro-batches of one row, or of two
    assert rows // (2 * layout.data) >= layout.least_micro_batches
    assert rows <= max(4, 2 * layout.data * layout.least_micro_batches)


@pytest.mark.parametrize(
    ("data", "length", "vocab", "rows"),
    [
        (1, 4096, 32_000, 4),
        (2, 4096, 32_000, 4),
        (1, 4096, 128_256, 2),
        (2, 8192, 32_000, 4),
        (3, 64, 1200, 6),
    ],
)
def test_rows_by_hand(data: int, length: int, vocab: int, rows: int) -> None:
    assert batch_rows(Layout(2, 1, data), length, vocab) == rows


@given(st.integers(1, 8), st.integers(0, 6), LAYOUTS, RANKS, st.booleans())
def test_the_small_model_keeps_the_architecture(
    group: int, power: int, asked: Layout, ranks: int, tied: bool
) -> None:
    kv_heads = asked.tensor * 2**power
    rope = {"rope_type": "linear", "rope_theta": 5e5, "factor": 2.0}
    whole = ModelShape(
        vocab=32_003,
        hidden=4096,
        intermediate=11_008,
        layers=32,
        heads=kv_heads * group,
        kv_heads=kv_heads,
        head_dim=128,
        max_positions=8192,
        norm_eps=1e-6,
        tied=tied,
        rope=rope,
    )
    layout = fold(replace(asked, sequence=False), ranks, 4096)
    small = small_shape(whole, asked, layout)
    assert small.heads / small.kv_heads == group
    assert small.kv_heads % layout.tensor == 0
    assert small.intermediate % layout.tensor == 0
    assert layout.parts <= small.layers <= layout.parts + 1
    assert small.head_dim % 2 == 0
    kept = {"vocab", "max_positions", "norm_eps", "tied", "rope"}
    assert all(getattr(small, name) == getattr(whole, name) for name in kept)


def test_small_models_of_known_shapes() -> None:
    large = small_shape(SHAPES["llama2-70b"], Layout(8, 4, 1), Layout(2, 3, 1))
    assert (large.heads, large.kv_heads, large.layers) == (16, 2, 4)  # one key-value head a rank, as there
    small = small_shape(SHAPES["llama2-7b"], Layout(4, 1, 2), Layout(4, 1, 2))
    assert (small.heads, small.kv_heads, small.intermediate) == (8, 8, 172)
