"""The whole model as a list of pipeline layers, and the loss that closes it."""

from __future__ import annotations

import torch

from trainer.model.layers import DecoderLayer, Embedding, FinalNorm, Head, Parts
from trainer.parallel.engine import LayerSpec, Stages, TiedLayerSpec

TIED = "embedding"


def llama_layers(parts: Parts) -> list[LayerSpec]:
    """Embedding, decoder layers, final norm, head: `shape.layers + 3` specs, built only where they belong."""
    if parts.shape.tied:
        first = TiedLayerSpec(TIED, Embedding, parts, tied_weight_attr="word.weight")
        last = TiedLayerSpec(TIED, Embedding, parts, forward_fn=_pass_on, tied_weight_attr="word.weight")
    else:
        first, last = LayerSpec(Embedding, parts), LayerSpec(Head, parts)
    decoders = [LayerSpec(DecoderLayer, parts) for _ in range(parts.shape.layers)]
    return [first, *decoders, LayerSpec(FinalNorm, parts), last]


def _pass_on(embedding: Embedding, hidden: torch.Tensor) -> torch.Tensor:
    return hidden


def head_weight(stages: Stages) -> torch.Tensor | None:
    """The output matrix [vocabulary / tp, h], tied or its own, where this rank holds the last layer; else None."""
    last = stages.bounds[-1] - 1
    if not any(last in part for part in stages.held):
        return None
    parameters = dict(stages.named_parameters())
    tied = f"tied_modules.{TIED}.word.weight"
    return parameters[tied] if tied in parameters else parameters[f"{last}.weight"]
