"""What one optimizer step reports, and how many FLOPs it takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from configs.gpus import gpu_named
from configs.shapes import ModelShape

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class StepReport:
    """One line of metrics.jsonl. Losses are nats per target of the global batch, times are seconds."""

    step: int
    loss: float
    loss_by_source: dict[str, float]
    loss_by_kind: dict[str, float]
    """By `SpanKind` of the target, named in lower case; kinds without targets in the step are absent."""
    lr: float
    grad_norm: float
    """Global norm before clipping."""
    targets: int
    tokens: int
    """Tokens that are no padding."""
    target_share: float
    """Targets over tokens."""
    rows: int
    fill: float
    step_seconds: float
    tokens_per_second: float
    data_wait_seconds: float
    """Part of step_seconds in which the batch was not there yet."""
    data_hash: str
    """The rolling hash of all samples up to this step: equal hashes, equal data in equal order."""
    skipped: int
    """Steps left out up to now, of the whole run: their loss or gradient was not finite, or a spike."""
    memory: int
    """Bytes. Of a GPU what torch's tensors took there at their fullest since the start, on a CPU the process's resident
    set after the step; in metrics.jsonl those of rank 0, whose stage and part of the optimizer they are."""
    mfu: float | None
    """Model FLOPs over the devices' bfloat16 peak; None where the peak is unknown, as on a CPU."""
    grad_norm_by_layer: dict[str, float] = field(default_factory=dict)
    """Before clipping; empty but in the steps of `train.layer_norms_every`."""
    weight_norm_by_layer: dict[str, float] = field(default_factory=dict)
    """Before the update, likewise."""


def step_flops(shape: ModelShape, sample_lengths: Sequence[int]) -> float:
    """Model FLOPs of a step, forward and backward, no recomputation counted.

    6 per weight and token (the embedding's rows are looked up, not multiplied) and 6 * heads * head_dim per
    layer and pair of tokens that causal attention inside samples joins, twice l^2 / 2 of them.
    """
    tokens = sum(sample_lengths)
    weights = shape.parameters() - (0 if shape.tied else shape.vocab * shape.hidden)
    pairs = float(sum(length * length for length in sample_lengths))
    return 6.0 * weights * tokens + 6.0 * shape.layers * shape.heads * shape.head_dim * pairs


def peak_flops(device: torch.device) -> float | None:
    """The device's dense bfloat16 peak per second; None where its type is not known."""
    if device.type != "cuda":
        return None
    import torch  # here, since a plan, which asks for `step_flops`, does without

    gpu = gpu_named(torch.cuda.get_device_name(device))
    return None if gpu is None else gpu.flops
