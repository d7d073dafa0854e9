"""What a rank computes and moves: FLOPs, and bytes that kernels read and write of the device's memory.

Counted over the kernels of `trainer.model` and DeepSpeed's update, one after another.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import NamedTuple

from trainer.plan.activations import vocabulary
from trainer.plan.setup import Setup
from trainer.plan.states import held

OPTIMIZER = 34.0
"""Bytes of each number that a rank updates: 28 that fused AdamW moves, and the copy to a bfloat16 weight."""
STEP, MEAN = 28.0, 8.0
"""Of each sum, by DeepSpeed's BF16_Optimizer: the copy out of a bucket, norm, clipping and two times zero; and the mean
over data ranks where there are several."""

Ways = tuple[float, float]


@dataclass(frozen=True)
class KernelBytes:
    """Read and written for each number in bfloat16, forward and backward."""

    norm: Ways
    residual: Ways
    rotary: Ways
    """Of queries, keys and values: one kernel turns the first two and carries the third over."""
    gate: Ways
    logit: Ways
    order: Ways
    """Of queries, keys, values and what attention gives: several rows are put one after another, and back."""
    sums: dict[int, float]
    """A gradient's sum, for each number and micro-batch, by bytes of a weight."""
    looked_up: dict[int, float]
    """The same of the embedding, whose gradient no product makes: it is cast, then added."""


OURS = KernelBytes(
    # Each formula of `trainer.model.kernels` is one kernel, but for a norm's backward pass, which sums along rows and
    # along columns and so reads twice; the loss looks at its logits twice each way; a bfloat16 weight's gradient is
    # added to its sum by the product, which reads and writes it.
    *((4.0, 10.0), (6.0, 6.0), (4.0, 4.0), (6.0, 10.0), (4.0, 4.0), (4.0, 4.0)),
    sums={2: 8.0, 4: 12.0},
    looked_up={2: 18.0, 4: 12.0},
)


class Work(NamedTuple):
    products: float = 0.0
    """FLOPs of matrix products."""
    attention: float = 0.0
    """FLOPs of attention's kernel."""
    moved: float = 0.0
    """Bytes of kernels that are no product."""


@dataclass(frozen=True)
class MicroBatchWork:
    """Of both passes of a micro-batch on one rank of a stage."""

    passes: Work
    again: Work
    """What `recompute` computes a second time."""
    sums: float
    """Bytes of gradients that are added to their sums."""

    @property
    def flops(self) -> float:
        return sum(work.products + work.attention for work in (self.passes, self.again))

    @property
    def moved(self) -> float:
        return self.passes.moved + self.again.moved + self.sums


def micro_batch_work(setup: Setup, stage: int) -> MicroBatchWork:
    shape, tensor, layers = setup.shape, setup.layout.tensor, setup.decoders(stage)
    matrices = sum(prod(s) for s in shape.layer_tensors().values() if len(s) > 1) / tensor
    layer = 2.0 * matrices * setup.tokens  # two FLOPs a weight and token
    # Half of the square, two products.
    attention = 2.0 * setup.attended * shape.heads * shape.head_dim / tensor * setup.tokens
    forward, backward = _kernel_bytes(setup)
    products, moved = 3 * layers * layer, layers * (forward + backward)  # twice the forward products backward
    if setup.last(stage):
        places = setup.targets * setup.tokens
        products += 3 * 2.0 * vocabulary(setup) * shape.hidden * places
        moved += setup.item / 2 * sum(OURS.logit) * vocabulary(setup) * places
    again = _again(setup, layer, attention)
    return MicroBatchWork(
        # Flash attention computes one of the two products again in its five backward.
        Work(products, 3.5 * layers * attention, moved),
        Work(*(layers * part for part in again)),
        _sums(setup, stage),
    )


def _sums(setup: Setup, stage: int) -> float:
    """Bytes of a micro-batch's gradients that are added to their sums."""
    looked_up = vocabulary(setup) * setup.shape.hidden if setup.first(stage) else 0.0
    others = held(setup, stage).numbers - looked_up
    return OURS.sums[setup.item] * others + OURS.looked_up[setup.item] * looked_up


def update_bytes(setup: Setup, stage: int) -> float:
    """What the update of a step moves on a rank."""
    data = setup.layout.data
    return held(setup, stage).padded(data) * (STEP + (MEAN if data > 1 else 0.0) + OPTIMIZER / data)


def _kernel_bytes(setup: Setup) -> Ways:
    """Bytes that a layer's kernels between products move for a micro-batch, forward and backward."""
    stream = setup.stream_tokens * setup.shape.hidden * 2
    rotary, gated, ordered = _rotary(setup), _gated(setup), _ordered(setup)
    forward, backward = (
        setup.item
        / 2
        * (
            stream * (OURS.norm[way] + OURS.residual[way])
            + rotary * OURS.rotary[way]
            + gated * OURS.gate[way]
            + ordered * OURS.order[way]
        )
        for way in (0, 1)
    )
    return forward, backward


def _rotary(setup: Setup) -> float:
    heads = (setup.shape.heads + 2 * setup.shape.kv_heads) // setup.layout.tensor
    return float(setup.tokens * heads * setup.shape.head_dim)


def _ordered(setup: Setup) -> float:
    if setup.micro_rows == 1:
        return 0.0
    heads = setup.shape.heads // setup.layout.tensor
    return _rotary(setup) + float(setup.tokens * heads * setup.shape.head_dim)


def _gated(setup: Setup) -> float:
    return setup.tokens * setup.shape.intermediate / setup.layout.tensor


def _again(setup: Setup, layer: float, attention: float) -> Work:
    """Of one layer."""
    forward, _ = _kernel_bytes(setup)
    if setup.recompute == "full":
        return Work(layer, attention, forward)
    if setup.recompute == "selective":  # norms and gate
        norms = setup.stream_tokens * setup.shape.hidden * 2 * OURS.norm[0]
        return Work(moved=setup.item / 2 * (norms + _gated(setup) * OURS.gate[0]))
    return Work()
