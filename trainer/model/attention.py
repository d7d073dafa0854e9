"""Causal attention inside each sample of a packed row, and nowhere else."""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F

from trainer.bounds import SampleBounds


def packed_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bounds: SampleBounds
) -> torch.Tensor:
    """Block-diagonal causal attention; cost is that of the samples' squared lengths, not of the row's.

    query: [t, n, d]; key, value: [t, kv, d] with kv dividing n (grouped queries). Returns [t, n, d].
    """
    if query.is_cuda and query.dtype in (torch.bfloat16, torch.float16):
        return _variable_length(query, key, value, bounds)
    return _by_sample(query, key, value, bounds)


def _by_sample(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bounds: SampleBounds
) -> torch.Tensor:
    """One call for each sample: the only way on a CPU, and in float32."""
    grouped = query.shape[1] != key.shape[1]
    outputs = []
    # Split, not sliced: the gradients of slices would each be as large as the row.
    for parts in zip(*(x.split(bounds.lengths) for x in (query, key, value)), strict=True):
        q, k, v = (x.transpose(0, 1)[None] for x in parts)  # [1, heads, l, d], l the sample's length
        block = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)
        outputs.append(block[0].transpose(0, 1))
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def _variable_length(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bounds: SampleBounds
) -> torch.Tensor:
    """Flash attention over all samples in one kernel."""
    from torch.nn.attention.varlen import varlen_attn

    edges, longest = bounds.cumulative, bounds.longest
    options = varlen_options(query.shape[1] != key.shape[1])
    return varlen_attn(query, key, value, edges, edges, longest, longest, **options)  # pyright: ignore[reportReturnType]


@cache
def varlen_options(grouped: bool) -> dict[str, Any]:
    """How this torch's varlen_attn is told to be causal, and of fewer key heads than query heads."""
    from torch.nn.attention.varlen import varlen_attn

    known = inspect.signature(varlen_attn).parameters
    causal: dict[str, Any] = {"window_size": (-1, 0)} if "window_size" in known else {"is_causal": True}
    return causal | ({"enable_gqa": True} if grouped and "enable_gqa" in known else {})
