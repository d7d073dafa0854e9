"""Each kernel in bfloat16 on the GPU against the textbook formula in float64 on the CPU."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from configs.layout import Layout
from trainer.bounds import sample_bounds
from trainer.cross_entropy import vocab_parallel_losses
from trainer.model.attention import packed_attention
from trainer.model.kernels import rms_norm, split_rotated, swiglu
from trainer.parallel.grid import start_grid
from trainer.parallel.weight_sums import add_product

CUDA = torch.device("cuda")
ROUNDING = 2.0**-8
"""Of bfloat16, relative."""
LENGTHS = [700, 1, 63, 1284]


def drawn(*sizes: int, seed: int = 1, scale: float = 1.0) -> torch.Tensor:
    """bfloat16 values, as both sides are given them, in float64."""
    values = torch.randn(sizes, generator=torch.Generator().manual_seed(seed)) * scale
    return values.bfloat16().double()


def agree(
    ours: Callable[..., torch.Tensor],
    plain: Callable[..., torch.Tensor],
    inputs: list[torch.Tensor],
    times: float = 4.0,
) -> None:
    """Values and derivatives, relative to the largest of each, within `times` bfloat16's rounding."""
    mine = [x.to(CUDA, torch.bfloat16).requires_grad_() for x in inputs]
    theirs = [x.clone().requires_grad_() for x in inputs]
    value, expected = ours(*mine), plain(*theirs)
    weight = drawn(*expected.shape, seed=9)
    found = torch.autograd.grad(value, mine, weight.to(CUDA, value.dtype))
    wanted = torch.autograd.grad(expected, theirs, weight)
    for a, b in zip((value, *found), (expected, *wanted), strict=True):
        apart = (a.double().cpu() - b).abs().max() / b.abs().max()
        assert apart < times * ROUNDING


def test_norm() -> None:
    def plain(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight

    agree(lambda x, w: rms_norm(x, w, 1e-5), plain, [drawn(512, 1, 4096), drawn(4096, seed=2)])


def test_gate() -> None:
    def plain(both: torch.Tensor) -> torch.Tensor:
        gate, up = both.chunk(2, -1)
        return gate * torch.sigmoid(gate) * up

    agree(swiglu, plain, [drawn(512, 1, 2 * 11008)])


@pytest.mark.parametrize(("n", "kv"), [(32, 32), (8, 2)])
def test_rotary(n: int, kv: int) -> None:
    t, d = 512, 128
    angles = torch.arange(t)[:, None] / 10000 ** (torch.arange(d // 2) / (d // 2))
    table = torch.stack((angles.cos(), angles.sin())).bfloat16()
    positions = torch.arange(t)
    cos, sin = table.double()[:, :, None]

    def plain(heads: torch.Tensor) -> torch.Tensor:
        first, second = heads[:, : n + kv].chunk(2, -1)
        turned = torch.cat((first * cos - second * sin, second * cos + first * sin), -1)
        return torch.cat((turned, heads[:, n + kv :]), 1)

    def ours(heads: torch.Tensor) -> torch.Tensor:
        return torch.cat(split_rotated(heads, n, kv, table.to(CUDA), positions.to(CUDA)), 1)

    agree(ours, plain, [drawn(t, n + 2 * kv, d)])


@pytest.mark.parametrize(("n", "kv"), [(4, 4), (4, 2)])
@pytest.mark.parametrize("d", [64, 128])
def test_attention_inside_samples(n: int, kv: int, d: int) -> None:
    positions = torch.cat([torch.arange(length) for length in LENGTHS])
    bounds = sample_bounds(positions[None], CUDA)
    t = len(positions)
    sample = torch.repeat_interleave(torch.arange(len(LENGTHS)), torch.tensor(LENGTHS))
    allowed = (sample[:, None] == sample[None, :]) & torch.ones(t, t).tril().bool()

    def plain(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        key, value = (x.repeat_interleave(n // kv, 1) for x in (key, value))
        scores = torch.einsum("tnd,und->ntu", query, key) / d**0.5
        return torch.einsum("ntu,und->tnd", scores.masked_fill(~allowed, float("-inf")).softmax(-1), value)

    inputs = [drawn(t, heads, d, seed=i) for i, heads in enumerate((n, kv, kv))]
    agree(lambda q, k, v: packed_attention(q, k, v, bounds), plain, inputs, times=6.0)


def test_losses_over_the_vocabulary() -> None:
    grid = start_grid(Layout(1, 1, 1))
    wanted = torch.randint(0, 32000, (777,), generator=torch.Generator().manual_seed(4))
    logits = drawn(777, 32000, scale=3.0)
    agree(
        # A copy: the gradient takes the logits' place, and these are a leaf.
        lambda x: vocab_parallel_losses(x * 1, wanted.to(CUDA), 0, 32000, grid.tensor_group),
        lambda x: F.cross_entropy(x, wanted, reduction="none"),
        [logits],
    )


def test_products_are_added_without_rounding_to_bfloat16() -> None:
    inputs, gradient = drawn(2048, 256), drawn(2048, 384, seed=2)
    sums = torch.randn(384, 256, generator=torch.Generator().manual_seed(3)).to(CUDA)
    expected = sums.double().cpu() + gradient.T @ inputs
    held = sums.data_ptr()
    add_product(inputs.to(CUDA, torch.bfloat16), gradient.to(CUDA, torch.bfloat16), sums)
    assert sums.data_ptr() == held
    apart = (sums.double().cpu() - expected).abs().max() / expected.abs().max()
    assert apart < 1e-5  # float32 sums of exact products; a rounding to bfloat16 would be 2e-3
