"""The layers' own formulas, forward and backward, against autograd's of the textbook formula in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer import fused as fused_module
from trainer.model.kernels import rms_norm, split_rotated, swiglu

Formula = Callable[..., torch.Tensor]
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
EPS = 1e-5


def plain_norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return x / (x.square().mean(-1, keepdim=True) + EPS).sqrt() * weight


def plain_gate(both: torch.Tensor) -> torch.Tensor:
    gate, up = both.chunk(2, -1)
    return gate / (1 + (-gate).exp()) * up


def turning(angles: torch.Tensor, n: int, kv: int) -> Formula:
    """By the matrix that turns each pair of places i and i + d / 2 of a head; angles [t, d / 2]."""
    d = 2 * angles.shape[1]
    matrix = torch.zeros(len(angles), d, d, dtype=torch.float64)
    for i in range(d // 2):
        j = i + d // 2
        matrix[:, i, i] = matrix[:, j, j] = angles[:, i].cos()
        matrix[:, j, i], matrix[:, i, j] = angles[:, i].sin(), -angles[:, i].sin()

    def turn(heads: torch.Tensor) -> torch.Tensor:
        return torch.cat((torch.einsum("tij,tnj->tni", matrix, heads[:, : n + kv]), heads[:, n + kv :]), 1)

    return turn


def agree(ours: Formula, plain: Formula, inputs: list[torch.Tensor], dtype: torch.dtype) -> None:
    """Values and all derivatives, as far as the precision lets them."""
    mine = [x.to(dtype).requires_grad_() for x in inputs]
    theirs = [x.detach().double().requires_grad_() for x in mine]
    value, expected = ours(*mine), plain(*theirs)
    weight = torch.randn(value.shape, generator=torch.Generator().manual_seed(5)).to(dtype)
    found = torch.autograd.grad(value, mine, weight)
    wanted = torch.autograd.grad(expected, theirs, weight.double())
    assert value.dtype is dtype
    tolerance = 2e-5 if dtype is torch.float32 else 2e-2
    for a, b in zip((value, *found), (expected, *wanted), strict=True):
        assert a.dtype is dtype
        scale = float(b.abs().max()) or 1.0
        torch.testing.assert_close(a.double() / scale, b / scale, rtol=tolerance, atol=tolerance)


@pytest.fixture(params=[False, True], ids=["whole", "in blocks"])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """As rows that fit the cache are, and as larger ones."""
    if request.param:
        monkeypatch.setattr(fused_module, "_BLOCK", 200)
    return request.param


def drawn(*sizes: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(sizes, generator=torch.Generator().manual_seed(seed))


@DTYPES
@pytest.mark.usefixtures("blocks")
def test_norm(dtype: torch.dtype) -> None:
    agree(lambda x, w: rms_norm(x, w, EPS), plain_norm, [drawn(23, 2, 16), drawn(16, seed=2)], dtype)


@DTYPES
@pytest.mark.usefixtures("blocks")
def test_gate(dtype: torch.dtype) -> None:
    agree(swiglu, plain_gate, [4 * drawn(23, 2, 24)], dtype)


@DTYPES
@pytest.mark.parametrize(("n", "kv"), [(4, 4), (4, 2), (3, 1)])
@pytest.mark.usefixtures("blocks")
def test_rotary(dtype: torch.dtype, n: int, kv: int) -> None:
    t, d = 29, 8
    angles = drawn(t, d // 2, seed=3).double()
    table = torch.stack((angles.cos(), angles.sin())).to(dtype)
    positions = torch.arange(t)
    exact = torch.atan2(
        table[1].double(), table[0].double()
    )  # the table's own rounding is no fault of the kernel
    turn = turning(exact, n, kv) if dtype is torch.float32 else turning(angles, n, kv)
    agree(
        lambda heads: torch.cat(split_rotated(heads, n, kv, table, positions), 1),
        turn,
        [drawn(t, n + 2 * kv, d)],
        dtype,
    )


def test_gate_keeps_its_input_alone_and_norm_a_number_for_each_place() -> None:
    for compute, inputs, more in (
        (swiglu, [drawn(6, 8)], 0),
        (lambda x, w: rms_norm(x, w, EPS), [drawn(6, 8), drawn(8)], 6),
    ):
        kept: dict[int, int] = {}

        def keep(x: torch.Tensor, kept: dict[int, int] = kept) -> torch.Tensor:
            kept[x.untyped_storage().data_ptr()] = x.numel()
            return x

        leaves = [x.requires_grad_() for x in inputs]
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            compute(*leaves)
        assert sum(kept.values()) == sum(x.numel() for x in leaves) + more


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 400))
def test_blocks_come_to_the_same(rows: int, width: int, block: int) -> None:
    def both(x: torch.Tensor, y: torch.Tensor, factor: float) -> tuple[torch.Tensor, torch.Tensor]:
        return x * factor + y, (x * y).sum(0)

    def into(x: torch.Tensor, y: torch.Tensor) -> None:
        x += y

    x, y = drawn(rows, width), drawn(rows, width, seed=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fused_module, "_BLOCK", block)
        added, summed = fused_module.fused(rows=2, summed=1)(both)(x, y, 3.0)
        assert torch.equal(added, x * 3.0 + y)
        torch.testing.assert_close(summed, (x * y).sum(0))
        assert fused_module.fused(rows=2)(into)(x, y) is None
    torch.testing.assert_close(x, drawn(rows, width) + y)
