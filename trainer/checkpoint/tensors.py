"""Tensors into a safetensors file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file


def save_tensors(tensors: Mapping[str, torch.Tensor], file: Path) -> None:
    """Write `file`, readable by whom the umask says: safetensors alone makes it its owner's only."""
    save_file(dict(tensors), file, metadata={"format": "pt"})
    umask = os.umask(0)
    os.umask(umask)
    file.chmod(0o666 & ~umask)
