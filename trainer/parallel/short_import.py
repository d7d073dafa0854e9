"""megatron-core and DeepSpeed without what they import for parts that are not used here.

megatron-core's own first module imports all it has: FSDP, which wants DTensor, a compiler of C++, and inference, which
wants wandb. Its fusions and DeepSpeed's Muon are wrapped in torch.compile as they are defined, which imports torch's
compiler. Together that is half of the seconds that every rank takes before anything else can begin.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec, module_from_spec
from typing import Any

import torch

MEGATRON = "megatron.core"
_UNUSED = ("wandb", "torch.distributed._tensor")
"""Modules that megatron-core asks for and does without."""


def import_engines() -> None:
    """Makes `megatron.core.X` importable without all the rest, and imports the part of DeepSpeed that compiles.

    What outlasts it: `megatron.core` has in it only what was imported from it, knows nothing of DTensor, and does not
    compile what it defines later.
    """
    with _uncompiled(), _without(*_UNUSED):
        if MEGATRON not in sys.modules:
            spec = find_spec(MEGATRON)
            assert spec is not None  # an installation without it fails above, with its name
            sys.modules[MEGATRON] = module = module_from_spec(spec)
            sys.modules["megatron"].core = module  # pyright: ignore[reportAttributeAccessIssue] - as an import does
        importlib.import_module(f"{MEGATRON}.tensor_parallel")
        importlib.import_module("deepspeed.runtime.zero.muon.muon_optimizer")


@contextmanager
def _uncompiled() -> Iterator[None]:
    """What is defined meanwhile stays as it is."""
    compile = torch.compile
    torch.compile = _as_it_is
    try:
        yield
    finally:
        torch.compile = compile


@contextmanager
def _without(*names: str) -> Iterator[None]:
    """An import of one of these fails, unless it is there already."""
    hidden: list[str] = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # pyright: ignore[reportArgumentType, reportCallIssue]
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


def _as_it_is(function: Callable[..., Any] | None = None, **options: Any) -> Callable[..., Any]:
    return function if function is not None else _as_it_is
