from __future__ import annotations

from itertools import combinations, pairwise
from math import prod

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from configs.layout import Layout
from configs.shapes import SHAPES, ModelShape
from trainer.stages import balance, divide, layer_costs

COSTS = st.floats(0, 1e6, allow_nan=False) | st.integers(0, 5).map(float)


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[float], int]:
    """Costs of embedding, 1 to 9 decoder layers, norm and head; and stages that fit."""
    layers = draw(st.integers(1, 9))
    costs = draw(st.lists(COSTS, min_size=layers + 3, max_size=layers + 3))
    return costs, draw(st.integers(1, layers))


def dearest(costs: list[float], bounds: list[int]) -> float:
    return max(sum(costs[a:b]) for a, b in pairwise(bounds))


def every_division(layers: int, stages: int) -> list[list[int]]:
    """All bounds that give each stage a decoder layer (pipeline layers 1 to `layers`), written down plainly."""
    cuts = combinations(range(2, layers + 1), stages - 1)
    return [[0, *cut, layers + 3] for cut in cuts]


@given(problems())
def test_no_division_has_a_cheaper_dearest_stage(problem: tuple[list[float], int]) -> None:
    costs, stages = problem
    bounds = balance(costs, stages)
    divisions = every_division(len(costs) - 3, stages)
    assert bounds in divisions
    best = min(dearest(costs, division) for division in divisions)
    assert dearest(costs, bounds) == pytest.approx(best, rel=1e-9, abs=1e-6)


def test_by_hand() -> None:
    assert balance([1, 10, 10, 10, 10, 1, 10], 2) == [0, 3, 7]
    assert balance([0, 10, 10, 10, 10, 0, 21], 2) == [0, 4, 7]  # the head weighs two layers
    assert balance([0, 10, 10, 10, 10, 0, 0], 4) == [0, 2, 3, 4, 7]
    assert balance([5, 1, 1, 1], 1) == [0, 4]


@given(problems())
def test_a_folded_pipeline_has_the_same_parts(problem: tuple[list[float], int]) -> None:
    """Out through the ranks and back: the first holds the first part and the last, the last rank two in the middle."""
    costs, parts = problem
    ranks = max(1, parts // 2)
    straight = [part for (part,) in divide(costs, Layout(1, 2 * ranks, 1))] if parts > 1 else []
    if straight:
        folded = divide(costs, Layout(1, ranks, 1, schedule="dualpipev"))
        assert list(folded) == [(straight[r], straight[-1 - r]) for r in range(ranks)]


def test_more_stages_than_layers() -> None:
    with pytest.raises(ValueError, match="5 pipeline stages for 4 decoder layers: take at most 4"):
        balance([1.0] * 7, 5)


@pytest.mark.parametrize("name", [name for name in SHAPES if name != "tiny"])  # its head outweighs its layers
def test_stages_of_the_known_shapes_are_even(name: str) -> None:
    costs = layer_costs(SHAPES[name], 4096)
    assert dearest(costs, balance(costs, 4)) < 1.5 * sum(costs) / 4


def test_costs_are_those_torch_counts() -> None:
    """A forward pass of transformers' own model, each product counted by torch."""
    shape = ModelShape(
        vocab=640, hidden=64, intermediate=176, layers=3, heads=8, kv_heads=4, head_dim=8, max_positions=256
    )
    config = LlamaConfig(
        vocab_size=640,
        hidden_size=64,
        intermediate_size=176,
        num_hidden_layers=3,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=256,
    )
    model = LlamaForCausalLM(config)
    model.set_attn_implementation("eager")  # full squares: twice what causal attention has to do
    length = 256
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(input_ids=torch.zeros(1, length, dtype=torch.long))
    _, *decoders, _, head = layer_costs(shape, length)
    squares = 2.0 * length * shape.heads * shape.head_dim * shape.layers
    expected = (sum(decoders) + head + squares) * length
    assert counter.get_total_flops() == pytest.approx(expected, rel=0.01)


def test_shape_of_the_costs() -> None:
    shape = SHAPES["llama2-7b"]
    embedding, *decoders, norm, head = layer_costs(shape, 4096)
    assert len(decoders) == shape.layers
    assert len(set(decoders)) == 1
    assert head == 2 * prod(shape.tensors()["lm_head.weight"])
    assert embedding < decoders[0] / 1000
    assert norm < decoders[0] / 1000
