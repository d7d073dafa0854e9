"""What passes through this rank in a step: hidden states, positions, losses of targets, gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from trainer.data.micro_batch import GlobalBatch, MicroBatch
from trainer.data.rows import IGNORED
from trainer.model.layers import DecoderLayer
from trainer.step import StepParts

Streams = dict[int, list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]]
"""Of each decoder layer here, numbered from 0: a micro-batch's hidden states after it, [s or s / tp, b, h], and the
positions before and after it, [b, s]."""


@dataclass
class Observer:
    """Looks at one engine's steps. `begin` before each."""

    parts: StepParts
    keeps_streams: bool = False
    """They are as large as all activations between layers."""
    streams: Streams = field(default_factory=dict)
    losses: list[torch.Tensor] = field(default_factory=list)
    """Of each micro-batch's targets in the order [s, b], float32 [targets]; on the last stage alone. None where it has
    no target."""
    gradients: dict[str, torch.Tensor] = field(default_factory=dict)
    """As `Engine.tell_gradients` gives them."""

    def __post_init__(self) -> None:
        engine, loss = self.parts.engine, self.parts.loss
        engine.tell_gradients(self._take_gradients)
        for name, module in engine.module.named_modules():
            if isinstance(module, DecoderLayer):
                module.register_forward_hook(self._looker(int(name) - 1))  # the embedding is layer 0 there
        compute = loss.token_losses

        def observed(hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            losses = compute(hidden, targets)
            self.losses.append(losses.detach().flatten())
            return losses

        loss.token_losses = observed

    def begin(self, keeps_streams: bool = False) -> None:
        self.keeps_streams = keeps_streams
        self.streams, self.losses, self.gradients = {}, [], {}

    def _take_gradients(self, gradients: dict[str, torch.Tensor]) -> None:
        self.gradients = gradients

    def _looker(self, layer: int) -> Any:
        def look(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            if self.keeps_streams:
                (_, before), (hidden, after) = inputs[0], output
                self.streams.setdefault(layer, []).append((hidden.detach().clone(), before, after))

        return look


@dataclass(frozen=True)
class Place:
    """Where the rows of this rank's micro-batches stand in the batch."""

    data_rank: int
    data: int
    micro_rows: int

    def row(self, micro: int, b: int) -> int:
        """Number of row `b` of micro-batch `micro`."""
        return (micro * self.data + self.data_rank) * self.micro_rows + b


def sample_numbers(batch: GlobalBatch, place: Place, micro: MicroBatch, number: int) -> torch.Tensor:
    """Which sample of its row each token of a micro-batch belongs to, int64 [b, s], counted from 0; -1 where padded."""
    rows = [batch.rows[place.row(number, b)] for b in range(len(micro.tokens))]
    samples = torch.from_numpy(np.stack([np.cumsum(row.positions == 0) - 1 for row in rows]))
    for row, own in zip(rows, samples, strict=True):
        own[row.filled :] = -1
    return samples


def sample_losses(
    losses: Sequence[torch.Tensor], batch: GlobalBatch, place: Place, micros: Sequence[MicroBatch]
) -> list[tuple[int, int, float]]:
    """(row, sample, sum of its losses) of every sample here that has a target."""
    found: list[tuple[int, int, float]] = []
    left = iter(losses)
    for number, micro in enumerate(micros):
        wanted = micro.labels.transpose(0, 1) != IGNORED  # [s, b]
        if not wanted.any():
            continue
        samples = sample_numbers(batch, place, micro, number).transpose(0, 1)[wanted]  # [targets]
        rows = torch.arange(len(micro.tokens)).expand_as(wanted)[wanted]
        values = next(left).double()
        for b, sample in sorted({*zip(rows.tolist(), samples.tolist(), strict=True)}):
            own = (rows == b) & (samples == sample)
            found.append((place.row(number, b), sample, float(values[own].sum())))
    return found
