"""Which layers each pipeline stage holds: contiguous, the dearest stage as cheap as can be."""

from __future__ import annotations

from collections.abc import Sequence

from configs.shapes import ModelShape


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


def balance(costs: Sequence[float], stages: int) -> list[int]:
    """Bounds [stages + 1] of contiguous parts whose largest sum is least; each part holds a decoder layer.

    `costs` as `layer_costs`: one embedding before and two layers after the decoder layers, which stay with
    the first and the last of them. Ties go to the earlier cut, so the answer is the same on every rank.
    Raises ValueError for more stages than decoder layers.
    """
    layers = len(costs) - 3
    if stages > layers:
        raise ValueError(f"{stages} pipeline stages for {layers} decoder layers: take at most {layers}")
    groups = [costs[0] + costs[1], *costs[2 : layers + 1]]
    groups[-1] += costs[-2] + costs[-1]
    before = [0.0]
    for cost in groups:
        before.append(before[-1] + cost)
    # best[k][i]: least largest sum of the first i groups in k parts, and where the last part begins
    best: list[list[tuple[float, int]]] = [[(0.0 if i == 0 else float("inf"), 0) for i in range(layers + 1)]]
    for _ in range(stages):
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
    for k in range(stages, 0, -1):
        cuts.append(best[k][cuts[-1]][1])
    inner = [cut + 1 for cut in reversed(cuts[1:-1])]  # the embedding stands before the first group
    return [0, *inner, len(costs)]
