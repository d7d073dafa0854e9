"""What a rank sends in a step, by process group, and over which link.

Counted over the layers, megatron-core's parallel linear layers and DeepSpeed's engine. A ring of n ranks sends
2 (n - 1) / n of a tensor to sum it over them, and (n - 1) / n to gather it or to scatter its sum (Patarasu and Yuan
2009), which is what NCCL calls bus bandwidth.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

from trainer.plan.activations import stream_bytes, vocabulary
from trainer.plan.setup import Cluster, Setup
from trainer.plan.states import held

Link = Literal["node", "network"]


@dataclass(frozen=True)
class Calls:
    """Collectives of one kind over the tensor group: how many, and bytes of the whole tensors together."""

    all_reduces: int = 0
    all_reduced: float = 0.0
    gathers: int = 0
    """All-gathers and reduce-scatters."""
    gathered: float = 0.0

    def __add__(self, other: Calls) -> Calls:
        return Calls(
            self.all_reduces + other.all_reduces,
            self.all_reduced + other.all_reduced,
            self.gathers + other.gathers,
            self.gathered + other.gathered,
        )

    def times(self, count: int) -> Calls:
        return Calls(
            self.all_reduces * count, self.all_reduced * count, self.gathers * count, self.gathered * count
        )

    def sent(self, ranks: int) -> float:
        """Bytes that each of so many ranks sends."""
        return (ranks - 1) / ranks * (2 * self.all_reduced + self.gathered)


def tensor_calls(setup: Setup, stage: int) -> Calls:
    """Collectives of a stage's tensor group for one micro-batch, forward and backward, if every place is a target."""
    if setup.layout.tensor == 1:
        return Calls()
    row = float(setup.item * setup.tokens * setup.shape.hidden)
    norm = float(setup.item * setup.shape.hidden)
    found = _layer_calls(setup, row, norm).times(setup.decoders(stage))
    if setup.first(stage):
        # With sequence parallelism the sum is scattered, and its gradient gathered.
        found += Calls(gathers=2, gathered=2 * row) if setup.sequence else Calls(1, row)
    if setup.last(stage):
        if setup.sequence:
            found += Calls(1, norm, gathers=1, gathered=row)
        # The head's input's gradient; largest logit, then the target's and the softmax's sum together.
        found += Calls(3, row + 3 * 4.0 * setup.tokens)
    return found


def _layer_calls(setup: Setup, row: float, norm: float) -> Calls:
    full = setup.recompute == "full"
    if not setup.sequence:
        # Two sums each way. Recomputation ends with the last tensor that is needed, before the second.
        count = 5 if full else 4
        return Calls(count, count * row)
    # Forward two gathers and two scattered sums; backward the same in turn, and the inputs gathered again for the
    # weights' gradients. The norms' gradients are summed.
    count = 13 if full else 10
    return Calls(2, 2 * norm, count, count * row)


def pipeline_bytes(setup: Setup, stage: int) -> float:
    """Sent by a rank for one micro-batch: hidden states and positions on, the gradient back."""
    stream = stream_bytes(setup)
    on = 0.0 if setup.last(stage) else stream + 8.0 * setup.tokens
    return on + (0.0 if setup.first(stage) else stream)


@dataclass(frozen=True)
class DataTraffic:
    """Sent by a rank over its data group in a step."""

    gradients: float
    """Summed in float32, whole: DeepSpeed's pipeline has ZeRO-1, which divides states alone."""
    weights: float
    """Gathered after the update."""
    tied: float
    """Gradients of an embedding that is the head too, between the first stage and the last."""


def data_traffic(setup: Setup, stage: int) -> DataTraffic:
    data = setup.layout.data
    ring = (data - 1) / data
    padded = held(setup, stage).padded(data)
    ends = setup.layout.pipeline > 1 and (setup.first(stage) or setup.last(stage))
    tied = 4.0 * vocabulary(setup) * setup.shape.hidden if setup.shape.tied and ends else 0.0
    return DataTraffic(2 * ring * 4 * padded, ring * setup.item * padded, tied)


def tensor_link(setup: Setup) -> Link:
    return _link(setup.layout.tensor, 1, setup)


def data_link(setup: Setup) -> Link:
    return _link(setup.layout.data, setup.layout.tensor, setup)


def pipeline_link(setup: Setup) -> Link:
    """Between neighbouring stages, where any of them are on different nodes."""
    step = setup.layout.tensor * setup.layout.data
    per_node = setup.cluster.per_node
    ranks = range(0, setup.layout.world_size - step)
    return "network" if any(r // per_node != (r + step) // per_node for r in ranks) else "node"


def _link(size: int, stride: int, setup: Setup) -> Link:
    return "node" if _fewest_together(size, stride, setup.cluster.per_node) == size else "network"


@cache
def _fewest_together(size: int, stride: int, per_node: int) -> int:
    """The fewest ranks of any group that share a node; groups of `size` ranks, `stride` apart, follow each other."""
    block, fewest = size * stride, size
    for start in range(0, block * per_node, block):  # then nodes and groups begin together again
        for first in range(start, start + stride):
            nodes: dict[int, int] = {}
            for rank in range(first, first + block, stride):
                nodes[rank // per_node] = nodes.get(rank // per_node, 0) + 1
            fewest = min(fewest, *nodes.values())
        if (start + block) % per_node == 0:
            break
    return fewest


def bandwidth(cluster: Cluster, link: Link, size: int, stride: int) -> float:
    """Bytes per second that a rank can send in a ring of its group, before protocols.

    A ring leaves a node once for each of its ranks there, so several of them share their network adapters.
    """
    if link == "node":
        return cluster.gpu.link
    return min(cluster.gpu.link, cluster.network * _fewest_together(size, stride, cluster.per_node))
