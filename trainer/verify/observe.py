"""What passes through this rank in a step: hidden states, positions, losses of targets, gradients."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from trainer.model.layers import DecoderLayer
from trainer.step import StepParts
from trainer.verify.places import Streams


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

    def _take_gradients(self, gradients: Iterator[tuple[str, torch.Tensor]]) -> None:
        self.gradients = dict(gradients)

    def _looker(self, layer: int) -> Any:
        def look(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            if self.keeps_streams:
                (_, before), (hidden, after) = inputs[0], output
                self.streams.setdefault(layer, []).append((hidden.detach().clone(), before, after))

        return look
