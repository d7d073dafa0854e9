"""Norms of each layer's gradient and weights: which layer learns too fast, or not at all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist

from configs.shapes import ModelShape
from trainer.model.names import owned_table
from trainer.parallel.engine import Engine
from trainer.parallel.grid import Grid
from trainer.stages import Ranges


@dataclass(frozen=True)
class Norms:
    """By layer, in the order of the forward pass. A tied head is the embedding's."""

    gradients: dict[str, float]
    """Before clipping; their squares' sum is the square of the global norm."""
    weights: dict[str, float]
    """Before the update, in the model's precision."""


class LayerNorms:
    """Looks at an engine's gradients in the steps that ask for it.

    A look costs a sum over the data ranks of all gradients, a parameter at a time, and one of two numbers a layer over
    all ranks.
    """

    def __init__(self, engine: Engine, grid: Grid, shape: ModelShape, stages: Sequence[Ranges]) -> None:
        self._names = layer_names(shape)
        # What several ranks hold alike, one of them counts.
        self._counted = {
            name: layer_of(name)
            for name, pieces in owned_table(shape, stages, grid.stage).items()
            if grid.data_rank == 0 and (grid.tensor_rank == 0 or pieces[0].split != "none")
        }
        self._engine, self._device = engine, grid.device
        self._asked = False
        self._found: Norms | None = None
        engine.tell_gradients(self._look)

    def ask(self) -> None:
        """Look at the step that follows; all ranks ask for it."""
        self._asked = True

    def take(self) -> Norms | None:
        """What was found since; the same on all ranks."""
        found, self._found = self._found, None
        return found

    def _look(self, gradients: Iterable[tuple[str, torch.Tensor]]) -> None:
        if not self._asked:
            return
        self._asked = False
        weights = self._engine.parameters()
        squares = torch.zeros(2, len(self._names), dtype=torch.float64, device=self._device)
        for name, gradient in gradients:
            if name in self._counted:
                layer = self._counted[name]
                squares[0, layer] += _square(gradient)
                squares[1, layer] += _square(weights[name].detach())
        dist.all_reduce(squares)
        gradient_norms, weight_norms = squares.sqrt().tolist()
        held = [
            number for number, norm in enumerate(weight_norms) if norm != 0 or gradient_norms[number] != 0
        ]
        self._found = Norms(
            {self._names[number]: gradient_norms[number] for number in held},
            {self._names[number]: weight_norms[number] for number in held},
        )


def layer_names(shape: ModelShape) -> list[str]:
    """Of each pipeline layer, which sort as they stand: embedding, layer_00 and so on, norm, head."""
    digits = len(str(shape.layers - 1))
    layers = [f"layer_{number:0{max(2, digits)}}" for number in range(shape.layers)]
    return ["embedding", *layers, "norm", "head"]


def layer_of(name: str) -> int:
    """The pipeline layer of a parameter by its name in the pipeline."""
    first, _, _ = name.partition(".")
    return int(first) if first.isdigit() else 0  # a tied embedding has no number


def _square(tensor: torch.Tensor) -> torch.Tensor:
    return torch.linalg.vector_norm(tensor, dtype=torch.float64).square()
