"""What a host without CUDA needs before deepspeed and megatron-core run on it. Never active where CUDA is."""

from __future__ import annotations

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
    if os.environ.get("MASTER_ADDR") in (None, "127.0.0.1", "localhost"):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    warnings.filterwarnings("ignore", message=".*async_grad_allreduce.*")
