"""Weights that show faults: random, with norms that matter and attention that prefers some tokens to others."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from safetensors.torch import save_file

from configs.shapes import ModelShape

_DEVIATION = 0.1
_NORMS = (0.5, 1.5)
"""At 1 a norm's weight could go missing unseen."""


def write_weights(folder: Path, seed: int) -> None:
    """model.safetensors, float32, beside the folder's config.json. Each tensor depends on (seed, name) alone."""
    shape = ModelShape.from_folder(folder)
    drawn = {name: _random(name, size, seed) for name, size in shape.tensors().items()}
    save_file(drawn, folder / "model.safetensors", metadata={"format": "pt"})


def _random(name: str, size: tuple[int, ...], seed: int) -> torch.Tensor:
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    empty = torch.empty(size)
    if len(size) == 1:
        return empty.uniform_(*_NORMS, generator=generator)
    return empty.normal_(0, _DEVIATION, generator=generator)
