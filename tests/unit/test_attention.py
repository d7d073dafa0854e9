from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from trainer.bounds import sample_bounds
from trainer.model.attention import packed_attention
from trainer.model.kernels import split_rotated
from trainer.model.rotary import inverse_frequencies, rotary_table

LENGTHS = st.lists(st.integers(1, 17), min_size=1, max_size=6)


def positions_of(lengths: list[int]) -> torch.Tensor:
    return torch.cat([torch.arange(length) for length in lengths])


def rotated(heads: torch.Tensor, table: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """heads [t, n, d] as if all were queries."""
    n = heads.shape[1]
    query, _, _ = split_rotated(heads, n, 0, table, positions)
    return query


def dense(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, lengths: list[int]) -> torch.Tensor:
    """softmax(q k^T / sqrt(d) + mask) v in float64, written out: one head after another, over the whole row."""
    t, n, d = query.shape
    sample = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    allowed = (sample[:, None] == sample[None, :]) & torch.ones(t, t).tril().bool()
    heads = []
    for head in range(n):
        shared = head // (n // key.shape[1])
        scores = query[:, head].double() @ key[:, shared].double().T / d**0.5
        weights = scores.masked_fill(~allowed, float("-inf")).softmax(-1)
        heads.append(weights @ value[:, shared].double())
    return torch.stack(heads, 1)


@settings(deadline=None, max_examples=30)
@given(LENGTHS, st.sampled_from([(1, 1), (4, 4), (6, 2), (4, 1)]), st.integers(0, 2**16))
def test_equals_attention_under_a_dense_mask(lengths: list[int], heads: tuple[int, int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    n, kv = heads
    inputs = [torch.randn(sum(lengths), h, 8, generator=generator, requires_grad=True) for h in (n, kv, kv)]
    query, key, value = inputs
    bounds = sample_bounds(positions_of(lengths)[None])
    ours, theirs = packed_attention(query, key, value, bounds), dense(query, key, value, lengths)
    torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-5)
    weight = torch.randn(ours.shape, generator=generator)
    mine = torch.autograd.grad((ours * weight).sum(), inputs)
    plain = torch.autograd.grad((theirs * weight).sum(), inputs)
    for a, b in zip(mine, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@given(LENGTHS, st.integers(1, 3))
def test_bounds_are_the_running_sum_of_the_lengths(lengths: list[int], rows: int) -> None:
    bounds = sample_bounds(positions_of(lengths).repeat(rows, 1))
    all_lengths = lengths * rows
    assert bounds.edges == tuple(sum(all_lengths[:i]) for i in range(len(all_lengths) + 1))
    assert bounds.cumulative.dtype is torch.int32
    assert bounds.cumulative.tolist() == list(bounds.edges)
    assert (bounds.lengths, bounds.longest) == (all_lengths, max(lengths))


def test_a_row_must_begin_with_a_sample() -> None:
    with pytest.raises(ValueError, match=r"begin with 0.*\[0, 3\]"):
        sample_bounds(torch.tensor([[0, 1, 0, 1], [3, 4, 0, 1]]))


@given(LENGTHS)
@settings(deadline=None)
def test_cost_is_that_of_the_samples(lengths: list[int]) -> None:
    """Scores computed are those of the samples' squares: nothing of the size of the row's square."""
    pairs: list[int] = []
    plain = F.scaled_dot_product_attention

    def counted(query: torch.Tensor, key: torch.Tensor, *rest: Any, **options: Any) -> torch.Tensor:
        assert options.get("attn_mask") is None
        pairs.append(query.shape[-2] * key.shape[-2])
        return plain(query, key, *rest, **options)

    query = torch.zeros(sum(lengths), 2, 4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, "scaled_dot_product_attention", counted)
        packed_attention(query, query, query, sample_bounds(positions_of(lengths)[None]))
    assert len(pairs) <= len(lengths)
    assert sum(pairs) <= sum(length**2 for length in lengths)


ROPES: dict[str, dict[str, Any]] = {
    "default": {"rope_type": "default", "rope_theta": 10000.0},
    "default, theta 5e5": {"rope_type": "default", "rope_theta": 500000.0},
    "linear": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0},
    "llama3": {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
}


@pytest.mark.parametrize("name", ROPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rotary_is_that_of_transformers(name: str, dtype: torch.dtype) -> None:
    head_dim, heads, lengths = 16, 3, [40, 7, 128]
    positions = positions_of(lengths)
    config = LlamaConfig(
        hidden_size=head_dim * heads,
        num_attention_heads=heads,
        max_position_embeddings=256,
        rope_parameters=ROPES[name],
    )
    x = torch.randn(len(positions), heads, head_dim, generator=torch.Generator().manual_seed(0)).to(dtype)
    cos, sin = LlamaRotaryEmbedding(config)(x, positions[None])
    theirs, _ = apply_rotary_pos_emb(x.transpose(0, 1)[None], x.transpose(0, 1)[None], cos, sin)
    table = rotary_table(head_dim, 256, tuple(ROPES[name].items()), x.device, dtype)
    ours = rotated(x, table, positions)
    rtol, atol = (0.0, 1e-6) if dtype is torch.float32 else (0.01, 0.02)
    torch.testing.assert_close(ours, theirs[0].transpose(0, 1), rtol=rtol, atol=atol)


def test_scores_depend_on_distance_alone() -> None:
    """The property rotary embedding exists for: q at i and k at j give the same score as at i + 9 and j + 9."""
    table = rotary_table(8, 64, tuple(ROPES["default"].items()), torch.device("cpu"), torch.float32)
    query, key = torch.randn(2, 1, 1, 8, generator=torch.Generator().manual_seed(3))

    def score(i: int, j: int) -> float:
        turned = [rotated(x, table, torch.tensor([at])) for x, at in ((query, i), (key, j))]
        return float((turned[0] * turned[1]).sum())

    for i, j in pairwise(range(0, 50, 7)):
        assert score(i, j) == pytest.approx(score(i + 9, j + 9), abs=1e-4)


def test_length_dependent_ropes_are_refused() -> None:
    with pytest.raises(ValueError, match="dynamic"):
        inverse_frequencies(8, 64, {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0})
