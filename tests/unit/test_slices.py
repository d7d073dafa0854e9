"""Parts of a training state: whatever layout wrote them, another finds its own slices in them."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from configs.errors import ConfigError
from configs.layout import Layout
from configs.schema import Schedule
from configs.shapes import SHAPES, ModelShape
from trainer.checkpoint.shards import Shard, shard_plan
from trainer.checkpoint.slices import PartReader, cut_parts, saved_parts, state_file
from trainer.model.names import Piece, owned_table, stage_table
from trainer.stages import Ranges, divide

Whole = dict[str, torch.Tensor]
"""Every Hugging Face tensor of a model."""


@st.composite
def shapes(draw: st.DrawFn) -> ModelShape:
    """A small Llama that 1, 2 and 4 tensor ranks can divide, and whose vocabulary they seldom can."""
    return ModelShape(
        vocab=draw(st.integers(3, 20)),
        hidden=draw(st.integers(3, 9)),
        intermediate=4 * draw(st.integers(1, 3)),
        layers=draw(st.integers(8, 10)),
        heads=draw(st.sampled_from([4, 8])),
        kv_heads=4,
        head_dim=2,
        max_positions=16,
        tied=draw(st.booleans()),
    )


layouts = st.builds(
    Layout,
    tensor=st.sampled_from([1, 2, 4]),
    pipeline=st.integers(1, 4),
    data=st.integers(1, 3),
    schedule=st.sampled_from(get_args(Schedule)),
)


def stages_of(shape: ModelShape, layout: Layout) -> tuple[Ranges, ...]:
    return divide([1.0] * (shape.layers + 3), layout)


def rank_slice(whole: torch.Tensor, piece: Piece, rank: int, tensor: int) -> torch.Tensor:
    """A rank's slice, padded as `slice_shape` says."""
    start, stop = piece.bounds(rank, tensor)
    taken = whole[:, start:stop] if piece.split == "columns" else whole[start:stop]
    padded = torch.zeros(piece.slice_shape(tensor))
    padded[tuple(slice(0, size) for size in taken.shape)] = taken
    return padded


def plan_of(shape: ModelShape, layout: Layout) -> list[Shard]:
    return shard_plan(shape, stages_of(shape, layout), 4, layout, most_bytes=20_000, least_bytes=1)


def write(folder: Path, whole: Whole, shape: ModelShape, layout: Layout) -> None:
    """As all ranks of a layout do, one after the other."""
    for shard in plan_of(shape, layout):
        table = owned_table(shape, stages_of(shape, layout), shard.stage)
        for rank in range(layout.tensor):
            tensors: Whole = {}
            for name in shard.parameters:
                held = [rank_slice(whole[piece.name], piece, rank, layout.tensor) for piece in table[name]]
                parts = dict(cut_parts(torch.cat(held), table[name], rank, layout.tensor))
                tensors |= {f"{name}/master": part for name, part in parts.items()}
            save_file(tensors, folder / state_file(shard, rank))


@settings(deadline=None, max_examples=40)
@given(shape=shapes(), wrote=layouts, reads=layouts)
def test_any_layout_reads_what_any_wrote(
    shape: ModelShape, wrote: Layout, reads: Layout, tmp_path_factory: pytest.TempPathFactory
):
    folder = tmp_path_factory.mktemp("state")
    generator = torch.Generator().manual_seed(1)
    whole = {name: torch.rand(size, generator=generator) for name, size in shape.tensors().items()}
    write(folder, whole, shape, wrote)
    stages = stages_of(shape, reads)
    with PartReader(
        folder, saved_parts(shape, stages_of(shape, wrote), wrote.tensor, plan_of(shape, wrote))
    ) as reader:
        for stage in range(reads.pipeline):
            for pieces in stage_table(shape, stages[stage]).values():
                for piece in pieces:
                    for rank in range(reads.tensor):
                        found = reader.read(piece, "master", rank, reads.tensor)
                        assert torch.equal(found, rank_slice(whole[piece.name], piece, rank, reads.tensor))


@settings(deadline=None, max_examples=40)
@given(shape=shapes(), layout=layouts)
def test_each_number_is_written_once(shape: ModelShape, layout: Layout):
    parts = saved_parts(shape, stages_of(shape, layout), layout.tensor, plan_of(shape, layout))
    assert parts.keys() == shape.tensors().keys()
    for name, size in shape.tensors().items():
        held = parts[name]
        assert held[0].first == 0
        assert all(left.last == right.first for left, right in pairwise(held))
        assert held[-1].last in size


def test_another_models_state_is_refused(tmp_path: Path):
    own = SHAPES["tiny"]
    other, layout = replace(own, vocab=77), Layout(1, 1, 1)
    parts = saved_parts(other, stages_of(other, layout), 1, plan_of(other, layout))
    (piece,) = stage_table(own, [range(1)])["0.word.weight"]
    refusal = rf"holds 77 rows or columns of {piece.name}, the model has {own.vocab}"
    with PartReader(tmp_path, parts) as reader, pytest.raises(ConfigError, match=refusal):
        reader.read(piece, "master", 0, 1)
    with PartReader(tmp_path, {}) as reader, pytest.raises(ConfigError, match="holds 0 rows"):
        reader.read(piece, "master", 0, 1)
