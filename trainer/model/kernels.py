"""What lies between the products of a layer: norm, rotary embedding, gate. Each keeps for its backward pass the least
that it can, and is one kernel each way on a GPU.

Forward and backward are plain formulas, the same on every device; torch's compiler joins each into a kernel where CUDA
is. Tests compare them with autograd's own derivatives of the textbook formula, in float64.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from trainer.fused import fused


@fused(rows=1)
def _norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
    wide = x.float()
    scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return (wide * scale).to(x.dtype) * weight, scale


@fused(rows=3, summed=1)
def _norm_backward(
    x: torch.Tensor, gradient: torch.Tensor, scale: torch.Tensor, weight: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    normed = x.float() * scale
    inner = gradient.float() * weight.float()
    of_x = scale * (inner - normed * (inner * normed).mean(-1, keepdim=True))
    of_weight = (gradient.float() * normed.to(x.dtype).float()).flatten(0, -2).sum(0)
    return of_x.to(x.dtype), of_weight


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        output, scale = _norm(x, weight, eps)
        ctx.save_for_backward(x, weight, scale)
        return output

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight, scale = ctx.saved_tensors
        of_x, of_weight = _norm_backward(x, gradient, scale, weight)
        return of_x, of_weight.to(weight.dtype), None


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """RMSNorm (Zhang and Sennrich 2019): x [..., h] over the root of its mean square, which is taken in float32, times
    weight [h]. Keeps x, and a float32 for each place."""
    return _Norm.apply(x, weight, eps)  # pyright: ignore[reportReturnType]


@fused(rows=1)
def _gate(both: torch.Tensor) -> torch.Tensor:
    gate, up = both.chunk(2, dim=-1)
    return F.silu(gate) * up


@fused(rows=2)
def _gate_backward(both: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    gate, up = (half.float() for half in both.chunk(2, dim=-1))
    g = gradient.float()
    share = torch.sigmoid(gate)
    of_gate = g * up * share * (1 + gate * (1 - share))
    return torch.cat((of_gate, g * gate * share), -1).to(both.dtype)


class _Gate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, both: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(both)
        return _gate(both)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return _gate_backward(ctx.saved_tensors[0], gradient)


def swiglu(both: torch.Tensor) -> torch.Tensor:
    """SwiGLU's gate (Shazeer 2020): [..., 2 f] holding gate and up to silu(gate) * up [..., f]. Keeps its input."""
    return _Gate.apply(both)  # pyright: ignore[reportReturnType]


@fused(rows=2)
def _turn(heads: torch.Tensor, positions: torch.Tensor, turned: int, table: torch.Tensor) -> torch.Tensor:
    cos, sin = table[:, positions, None]  # [t, 1, d / 2] each
    first, second = heads[:, :turned].chunk(2, dim=-1)
    rotated = torch.cat((first * cos - second * sin, second * cos + first * sin), -1)
    return torch.cat((rotated, heads[:, turned:]), 1)


@fused(rows=4)
def _turn_back(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    positions: torch.Tensor,
    table: torch.Tensor,
) -> torch.Tensor:
    cos, sin = table[:, positions, None]
    first, second = torch.cat((query, key), 1).chunk(2, dim=-1)
    rotated = torch.cat((first * cos + second * sin, second * cos - first * sin), -1)
    return torch.cat((rotated, value), 1)


class _Rotary(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, heads: torch.Tensor, n: int, kv: int, table: torch.Tensor, positions: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        ctx.save_for_backward(table, positions)
        return _turn(heads, positions, n + kv, table).split([n, kv, kv], 1)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None, None, None]:
        query, key, value = gradients
        table, positions = ctx.saved_tensors
        return _turn_back(query, key, value, positions, table), None, None, None, None


def split_rotated(
    heads: torch.Tensor, n: int, kv: int, table: torch.Tensor, positions: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries [t, n, d] and keys [t, kv, d], turned by their positions' angles, and values [t, kv, d] as they are.

    heads: [t, n + 2 kv, d], in that order; table: cosines and sines [2, positions, d / 2] as `rotary_table` makes them;
    positions: int64 [t]. The two halves of a head are the pair that is turned (Su et al. 2021, in Hugging Face's
    order). Keeps nothing of its own.
    """
    return _Rotary.apply(heads, n, kv, table, positions)  # pyright: ignore[reportReturnType]
