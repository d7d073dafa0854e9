"""Causal attention inside each sample of a packed row, and nowhere else."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F


def sample_bounds(positions: torch.Tensor) -> list[int]:
    """Where samples begin in the flattened rows, closed by the total length.

    positions: integer [t], restarting at 0 with every sample (and with the padding, which is a block too).
    """
    starts = (positions == 0).nonzero().flatten().tolist()
    if not starts or starts[0] != 0:
        raise ValueError(f"positions must begin with 0, they begin with {positions[:1].tolist()}")
    return [*starts, len(positions)]


def packed_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bounds: list[int]
) -> torch.Tensor:
    """Block-diagonal causal attention; cost is that of the samples' squared lengths, not of the row's.

    query: [t, n, d]; key, value: [t, kv, d] with kv dividing n (grouped queries); bounds as `sample_bounds`.
    Returns [t, n, d].
    """
    grouped = query.shape[1] != key.shape[1]
    outputs = []
    for start, stop in pairwise(bounds):
        # [1, heads, l, d], l the sample's length
        q, k, v = (x[start:stop].transpose(0, 1)[None] for x in (query, key, value))
        block = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)
        outputs.append(block[0].transpose(0, 1))
    return torch.cat(outputs)
