"""The memory of a rank at its fullest, by part."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from trainer.plan.activations import (
    layer_working,
    loss_kept,
    loss_working,
    outputs_left,
    stage_kept,
    stream_bytes,
)
from trainer.plan.setup import Setup
from trainer.plan.states import pass_buffers, states, step_buffers

ALLOWANCE = 3e9
"""Assumed, not computed: what CUDA's context, cuBLAS and NCCL's communicators take on each device, in bytes."""


@dataclass(frozen=True)
class Memory:
    """Bytes of one rank at the moment when it holds most; parts that are not there at that moment are 0."""

    weights: float
    gradients: float
    optimizer: float
    rotary: float
    activations: float
    """Kept for the backward pass, of all micro-batches in flight."""
    working: float
    """What the passes need for a moment: gradients on their way, and with `full` recompute a whole layer."""
    loss: float
    """Of the last stage: final norm and logits, if every place is a target."""
    buffers: float
    """What pipeline, tensor and data groups receive into."""
    allowance: float

    @property
    def total(self) -> float:
        return sum(asdict(self).values())

    @property
    def torch(self) -> float:
        """The part that torch allocates (`torch.cuda.max_memory_allocated`)."""
        return self.total - self.allowance

    @property
    def largest(self) -> str:
        """The name of the largest part."""
        parts = asdict(self)
        return max(parts, key=parts.__getitem__)


def rank_memory(setup: Setup, stage: int) -> Memory:
    """The fullest moment of a stage's ranks, which are alike: in the loss, in the backward pass of the last layer, or
    while gradients are reduced.

    DeepSpeed's schedule has `Setup.in_flight` micro-batches in their passes then.
    """
    steady = states(setup, stage)
    parts = {
        "weights": float(steady.weights),
        "gradients": float(steady.gradients),
        "optimizer": float(steady.optimizer),
        "rotary": float(setup.shape.max_positions * setup.shape.head_dim * setup.item),
        "allowance": ALLOWANCE,
    }
    stream, last = stream_bytes(setup), setup.last(stage)
    received = _received(setup, stage)
    left = outputs_left(setup, stage) if setup.micro_batches > 1 else 0.0
    in_passes = {
        "activations": setup.in_flight(stage) * stage_kept(setup, stage),
        "buffers": received + left + pass_buffers(setup),
    }
    nothing = {"activations": 0.0, "working": 0.0, "loss": 0.0}
    of_layer = nothing | in_passes | {"working": layer_working(setup) + (stream if last else 0.0)}
    two = min(2, setup.micro_batches)
    of_step = nothing | {"buffers": received + two * outputs_left(setup, stage) + step_buffers(setup, stage)}
    moments = [of_layer, of_step]
    if last:
        # DeepSpeed has copied what it received before the pass.
        working = loss_working(setup) + (0.0 if setup.first(stage) else stream)
        moments.append(nothing | in_passes | {"loss": loss_kept(setup), "working": working})
    return max((Memory(**parts, **moment) for moment in moments), key=lambda memory: memory.total)


def _received(setup: Setup, stage: int) -> float:
    """What is received into, kept from step to step: hidden states or their gradients, and their positions; with
    sequence parallelism megatron-core's buffer for the gathered row."""
    found = setup.item * setup.tokens * setup.shape.hidden if setup.sequence else 0.0
    if setup.layout.pipeline > 1:
        found += stream_bytes(setup) + (0 if setup.first(stage) else 8.0 * setup.tokens)
    return found


def all_memory(setup: Setup) -> list[Memory]:
    """Of each stage's ranks, in order."""
    return [rank_memory(setup, stage) for stage in range(setup.layout.pipeline)]
