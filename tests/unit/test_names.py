"""The table of names, used as import and export use it, on tensors in memory."""

from __future__ import annotations

from collections import Counter
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from configs.layout import Layout
from configs.schema import Schedule
from configs.shapes import SHAPES, ModelShape
from trainer.model.names import Piece, check_names, owned_table, row_offsets, stage_table
from trainer.stages import Ranges, divide


@st.composite
def divided_shapes(draw: st.DrawFn) -> tuple[ModelShape, tuple[Ranges, ...], int]:
    """A small Llama, its stages' layers, and the number of tensor ranks."""
    tensor = draw(st.sampled_from([1, 2, 3, 4]))
    kv_heads = tensor * draw(st.integers(1, 2))
    head_dim = draw(st.sampled_from([2, 4]))
    schedule = draw(st.sampled_from(get_args(Schedule)))
    stages = draw(st.integers(1, 4 if schedule == "1f1b" else 2))
    layout = Layout(tensor, stages, 1, schedule=schedule)
    layers = draw(st.integers(layout.parts, 5))
    shape = ModelShape(
        vocab=draw(st.integers(5, 40)),
        hidden=draw(st.integers(3, 9)),
        intermediate=tensor * draw(st.integers(1, 4)),
        layers=layers,
        heads=kv_heads * draw(st.integers(1, 3)),
        kv_heads=kv_heads,
        head_dim=head_dim,
        max_positions=16,
        tied=draw(st.booleans()),
    )
    costs = draw(st.lists(st.floats(0, 9), min_size=layers + 3, max_size=layers + 3))
    return shape, divide(costs, layout), tensor


def rank_slice(whole: torch.Tensor, piece: Piece, rank: int, tensor: int) -> torch.Tensor:
    """A rank's slice, padded as `slice_shape` says."""
    start, stop = piece.bounds(rank, tensor)
    taken = whole[:, start:stop] if piece.split == "columns" else whole[start:stop]
    padded = torch.zeros(piece.slice_shape(tensor))
    padded[tuple(slice(0, size) for size in taken.shape)] = taken
    return padded


def joined(slices: list[torch.Tensor], piece: Piece) -> torch.Tensor:
    if piece.split == "none":
        assert all(torch.equal(part, slices[0]) for part in slices)
        return slices[0]
    whole = torch.cat(slices, dim=1 if piece.split == "columns" else 0)
    return whole[tuple(slice(0, size) for size in piece.shape)]


@settings(deadline=None, max_examples=60)
@given(divided_shapes())
def test_there_and_back(case: tuple[ModelShape, tuple[Ranges, ...], int]) -> None:
    """Every tensor, numbered cell by cell, comes back whole from the ranks' parameters, exactly once."""
    shape, stages, tensor = case
    number = 0
    model: dict[str, torch.Tensor] = {}
    for name, size in shape.tensors().items():
        count = torch.Size(size).numel()
        model[name] = torch.arange(number + 1, number + count + 1, dtype=torch.float64).float().reshape(size)
        number += count
    back: Counter[str] = Counter()
    for stage in range(len(stages)):
        table = stage_table(shape, stages[stage])
        owned = owned_table(shape, stages, stage)
        assert owned.items() <= table.items()
        for name, pieces in owned.items():
            parameters = [
                torch.cat([rank_slice(model[piece.name], piece, rank, tensor) for piece in pieces])
                for rank in range(tensor)
            ]
            for piece, offset in zip(pieces, row_offsets(pieces, tensor), strict=True):
                rows = slice(offset, offset + piece.slice_shape(tensor)[0])
                whole = joined([parameter[rows] for parameter in parameters], piece)
                assert torch.equal(whole, model[piece.name]), (name, piece.name)
                back[piece.name] += 1
    assert back == Counter(model.keys())


@settings(deadline=None)
@given(divided_shapes())
def test_a_rank_has_whole_heads(case: tuple[ModelShape, tuple[Ranges, ...], int]) -> None:
    """Queries share the key-value heads of their own rank: heads are cut between, not through."""
    shape, _, tensor = case
    query, key, value = stage_table(shape, [range(1, 2)])["1.attention.qkv.weight"]
    assert [piece.name.split(".")[-2] for piece in (query, key, value)] == ["q_proj", "k_proj", "v_proj"]
    group = shape.heads // shape.kv_heads
    for rank in range(tensor):
        (q0, q1), (k0, k1) = (piece.bounds(rank, tensor) for piece in (query, key))
        assert (k0 % shape.head_dim, k1 % shape.head_dim) == (0, 0)
        assert (q0, q1) == (k0 * group, k1 * group)
        assert value.bounds(rank, tensor) == (k0, k1)


def test_names_and_shapes_are_those_of_transformers() -> None:
    for tied in (False, True):
        config = LlamaConfig(
            vocab_size=33,
            hidden_size=24,
            intermediate_size=20,
            num_hidden_layers=2,
            num_attention_heads=6,
            num_key_value_heads=2,
            tie_word_embeddings=tied,
        )
        shape = ModelShape(33, 24, 20, 2, 6, 2, 4, 2048, tied=tied)
        theirs = {name: tuple(p.shape) for name, p in LlamaForCausalLM(config).named_parameters()}
        pieces = [piece for pieces in owned_table(shape, [(range(5),)], 0).values() for piece in pieces]
        assert {piece.name: piece.shape for piece in pieces} == theirs


def test_a_tied_embedding_is_on_both_ends_and_owned_by_the_first() -> None:
    shape = ModelShape(33, 24, 20, 4, 6, 2, 4, 2048, tied=True)
    name = "tied_modules.embedding.word.weight"
    stages = [(range(2),), (range(2, 4),), (range(4, 7),)]
    assert [name in stage_table(shape, held) for held in stages] == [True, False, True]
    assert [name in owned_table(shape, stages, stage) for stage in range(3)] == [True, False, False]


def test_a_tied_embedding_is_once_on_a_rank_with_both_ends() -> None:
    shape = ModelShape(33, 24, 20, 4, 6, 2, 4, 2048, tied=True)
    stages = [(range(2), range(4, 7)), (range(2, 3), range(3, 4))]
    names = [
        piece.name for stage in range(2) for ps in owned_table(shape, stages, stage).values() for piece in ps
    ]
    assert Counter(names) == Counter(shape.tensors().keys())


def test_missing_tensors_are_counted_and_named() -> None:
    shape = SHAPES["tiny"]
    names = set(shape.tensors()) - {"model.layers.1.mlp.up_proj.weight", "lm_head.weight"}
    with pytest.raises(ValueError, match=r"2 of 39 tensors are missing.*model\.layers\.1\.mlp\.up_proj"):
        check_names(names, shape)
    check_names(shape.tensors(), shape)
