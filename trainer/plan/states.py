"""Weights, gradients and optimizer states of a rank, as DeepSpeed's ZeRO-1 holds them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import prod

from configs.shapes import ModelShape
from trainer.model.names import stage_table
from trainer.plan.setup import Setup

BUCKET = 500_000_000
"""Numbers that DeepSpeed reduces at a time: MEMORY_OPT_ALLREDUCE_SIZE, and ZeRO's reduce_bucket_size."""


@dataclass(frozen=True)
class Held:
    """Parameters of a rank, in numbers: padding of the vocabulary counts, that of ZeRO does not."""

    matrices: int
    """With weight decay, one of ZeRO's two groups."""
    vectors: int
    """The norms, the other group."""

    @property
    def numbers(self) -> int:
        return self.matrices + self.vectors

    def padded(self, data: int) -> int:
        """Each group is flat and padded to twice the data ranks, which take equal parts of it."""
        return sum(-(-group // (2 * data)) * 2 * data for group in (self.matrices, self.vectors))


@dataclass(frozen=True)
class States:
    """Bytes of a rank that stay from step to step, and in float32 `gradients` from the first backward pass on."""

    weights: int
    gradients: int
    """Sums over micro-batches, float32: a flat buffer beside bfloat16 weights, `.grad` beside float32 ones."""
    optimizer: int
    """A data rank's part of float32 weights and of both moments: 12 bytes a number, 4 of them copies where weights are
    float32 already."""


def held(setup: Setup, stage: int) -> Held:
    """The parameters of a rank of a stage; tensor ranks hold equally many."""
    shape = setup.shape
    sizes = (shape.vocab, shape.hidden, shape.intermediate, 1, shape.heads, shape.kv_heads, shape.head_dim, 1)
    first, last, tensor = setup.first(stage), setup.last(stage), setup.layout.tensor
    # The stage as it would be of a model with one decoder layer, and its other layers, which are like it.
    ends = _numbers(sizes, shape.tied, tensor, 0 if first else 1, 4 if last else 2)
    more = _numbers(sizes, shape.tied, tensor, 1, 2)
    count = setup.decoders(stage) - 1
    return Held(ends.matrices + count * more.matrices, ends.vectors + count * more.vectors)


@cache
def _numbers(sizes: tuple[int, ...], tied: bool, tensor: int, first: int, last: int) -> Held:
    """Of pipeline layers `first` to `last` - 1 of a model; `sizes` in ModelShape's order."""
    found = {2: 0, 1: 0}
    for pieces in stage_table(ModelShape(*sizes, tied=tied), [range(first, last)]).values():
        found[len(pieces[0].shape)] += sum(prod(piece.slice_shape(tensor)) for piece in pieces)
    return Held(found[2], found[1])


def states(setup: Setup, stage: int) -> States:
    """What `deepspeed.initialize` allocates for a rank: BF16_Optimizer, in float32 DeepSpeedZeroOptimizer."""
    own, data = held(setup, stage), setup.layout.data
    padded = own.padded(data)
    gradients = 4 * (padded if setup.item == 2 else own.numbers)
    return States(setup.item * padded, gradients, 12 * padded // data)


def pass_buffers(setup: Setup) -> int:
    """Bytes that DeepSpeed reserves in each backward pass: a bucket, in float32 alone."""
    return 4 * BUCKET if setup.item == 4 else 0


def step_buffers(setup: Setup, stage: int) -> int:
    """Bytes beside the states while gradients are reduced, when no activations are there.

    In bfloat16 DeepSpeed flattens the two groups' sums into one buffer, unless the matrices alone are more than a
    bucket: then each is reduced where it is. In float32 gradients go through a second bucket, and are copied whole.
    """
    own, data = held(setup, stage), setup.layout.data
    if setup.item == 2:
        return 4 * own.padded(data) if own.matrices <= BUCKET else 0
    return 8 * BUCKET + 4 * own.numbers
