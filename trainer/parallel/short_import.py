"""megatron-core without what it imports for fused kernels and for inference, neither of which is used here.

Its fusions are wrapped in torch.compile as they are defined, which imports torch's compiler, and its inference wants
wandb. Together they are more than half of the four seconds that the import takes, in every rank, before anything else
can begin.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any

import torch


def import_megatron() -> None:
    """Import megatron.core; what it defines meanwhile stays uncompiled. Nothing is changed that outlasts the import."""
    compile, hidden = torch.compile, "wandb" not in sys.modules
    torch.compile = _as_it_is
    if hidden:
        sys.modules["wandb"] = None  # pyright: ignore[reportArgumentType] - an import of it fails, which megatron expects
    try:
        importlib.import_module("megatron.core")
    finally:
        torch.compile = compile
        if hidden:
            del sys.modules["wandb"]


def _as_it_is(function: Callable[..., Any] | None = None, **options: Any) -> Callable[..., Any]:
    return function if function is not None else _as_it_is
