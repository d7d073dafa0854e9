"""Which layers each pipeline rank holds: contiguous parts of them, the dearest part as cheap as can be."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from configs.layout import Layout
from configs.shapes import ModelShape

Ranges = tuple[range, ...]
"""What a pipeline rank holds: contiguous parts of the pipeline's layers, in the order of the forward pass."""


def divide(costs: Sequence[float], layout: Layout) -> tuple[Ranges, ...]:
    """What each pipeline rank holds: one part under 1F1B, two under DualPipeV, all of them balanced.

    Ranks wait for each other after each part's pass, so it is the dearest part that counts, not the dearest rank.
    `costs` as `layer_costs`. Raises ValueError for more parts than decoder layers.
    """
    parts = [range(first, last) for first, last in pairwise(balance(costs, layout.parts))]
    return tuple(
        tuple(part for number, part in enumerate(parts) if layout.stage_of(number) == stage)
        for stage in range(layout.pipeline)
    )


def layer_costs(shape: ModelShape, sequence_length: int) -> list[float]:
    """Forward FLOPs per token of each pipeline layer: embedding, decoder layers, final norm, head.

    A matrix costs two FLOPs per weight and token; causal attention over full-length samples costs
    2 * s * heads * head_dim more (half of the square, two products). The embedding moves one row of h
    numbers in and its gradient out, counted as 2 h; a norm as 4 h.
    """
    attention = 2.0 * sequence_length * shape.heads * shape.head_dim
    decoder = 2.0 * shape.layer_parameters() + attention
    h = float(shape.hidden)
    return [2 * h, *[decoder] * shape.layers, 4 * h, 2 * h * shape.vocab]


def balance(costs: Sequence[float], parts: int) -> list[int]:
    """Bounds [parts + 1] of contiguous parts whose largest sum is least; each part holds a decoder layer.

    `costs` as `layer_costs`: one embedding before and two layers after the decoder layers, which stay with
    the first and the last of them. Ties go to the earlier cut, so the answer is the same on every rank.
    Raises ValueError for more parts than decoder layers.
    """
    layers = len(costs) - 3
    if parts > layers:
        raise ValueError(f"{parts} pipeline stages for {layers} decoder layers: take at most {layers}")
    groups = [costs[0] + costs[1], *costs[2 : layers + 1]]
    groups[-1] += costs[-2] + costs[-1]
    before = [0.0]
    for cost in groups:
        before.append(before[-1] + cost)
    # best[k][i]: least largest sum of the first i groups in k parts, and where the last part begins
    best: list[list[tuple[float, int]]] = [[(0.0 if i == 0 else float("inf"), 0) for i in range(layers + 1)]]
    for _ in range(parts):
        best.append(
            [
                min(
                    ((max(best[-1][j][0], before[i] - before[j]), j) for j in range(i)),
                    default=(float("inf"), 0),
                )
                for i in range(layers + 1)
            ]
        )
    cuts = [layers]
    for k in range(parts, 0, -1):
        cuts.append(best[k][cuts[-1]][1])
    inner = [cut + 1 for cut in reversed(cuts[1:-1])]  # the embedding stands before the first group
    return [0, *inner, len(costs)]
