"""What a host without CUDA needs before deepspeed and megatron-core run on it. Never active where CUDA is."""

from __future__ import annotations

import ctypes
import importlib
import os
import warnings
from typing import Any

import torch


def prepare_cpu_host() -> None:
    """Let both libraries run on the CPU; call once, before process groups exist.

    megatron-core asks `torch.cuda.current_device()` where to put its communication buffers: here it hears
    "cpu". DeepSpeed would compile a shared-memory all-reduce when its backend starts (a minute, and a build
    that was killed leaves a lock every later start waits on): gloo serves instead. One thread per rank keeps
    gradients bitwise repeatable, and gloo on one host talks over the loopback device.
    """
    if torch.cuda.is_available():
        return
    backend: Any = importlib.import_module("deepspeed.comm.torch")
    cuda: Any = torch.cuda
    cuda.current_device = lambda: torch.device("cpu")
    backend.build_shm_op = lambda: None
    torch.set_num_threads(1)
    _map_large_blocks()
    if os.environ.get("MASTER_ADDR") in (None, "127.0.0.1", "localhost"):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    warnings.filterwarnings("ignore", message=".*async_grad_allreduce.*")


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
MAPPED_FROM, KEPT_ON_TOP = 4 << 20, 256 << 20
"""Bytes: of blocks that are mapped each for itself, and of free heap that is kept."""


def _map_large_blocks() -> None:
    """Blocks as large as activations go back to the system when they are freed.

    torch asks for aligned blocks, and glibc, which keeps up to 32 MB of a freed block, does not find an aligned one
    among those of its size: the heap grows to twice what is alive at the most. Smaller ones stay in the heap, whose top
    is not given back either, as it would be from now on after each. What the environment says of it is left alone.
    """
    if any(name.startswith(("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")) for name in os.environ):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(_M_MMAP_THRESHOLD, MAPPED_FROM)
        mallopt(_M_TRIM_THRESHOLD, KEPT_ON_TOP)
