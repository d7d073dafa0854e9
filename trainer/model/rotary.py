"""Rotary position embedding in Hugging Face's convention: the two halves of a head are the pair."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch

from configs.shapes import ROPE_TYPES


def inverse_frequencies(
    head_dim: int, max_positions: int, rope: Mapping[str, Any]
) -> tuple[torch.Tensor, float]:
    """Frequencies [head_dim / 2], float32, and the factor cosines and sines are scaled by.

    `rope` is config.json's rope parameters (`rope_type`, `rope_theta`, …); transformers' own functions
    compute every kind but the plain one, which is theta ** (-2i / head_dim) (Su et al. 2021, section 3.2.2).
    Raises ValueError for a kind outside ROPE_TYPES.
    """
    kind = str(rope.get("rope_type", "default"))
    if kind not in ROPE_TYPES:
        raise ValueError(
            f"rope type {kind!r} is not supported: use a model with one of {', '.join(ROPE_TYPES)}"
        )
    if kind == "default":
        exponent = torch.arange(0, head_dim, 2, dtype=torch.int64).to(torch.float32) / head_dim
        return 1.0 / (float(rope["rope_theta"]) ** exponent), 1.0
    # transformers takes seconds to import, and Llama 2 does without.
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    config = LlamaConfig(head_dim=head_dim, max_position_embeddings=max_positions, rope_parameters=dict(rope))
    return ROPE_INIT_FUNCTIONS[kind](config, torch.device("cpu"))


@lru_cache(maxsize=4)
def rotary_table(
    head_dim: int,
    max_positions: int,
    rope: tuple[tuple[str, Any], ...],
    device: torch.device,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Cosines and sines of every position, [2, max_positions, head_dim / 2]; one table serves all layers."""
    frequencies, scale = inverse_frequencies(head_dim, max_positions, dict(rope))
    angles = torch.arange(max_positions, dtype=torch.float32)[:, None] * frequencies[None, :]
    return (torch.stack((angles.cos(), angles.sin())) * scale).to(device=device, dtype=dtype)
