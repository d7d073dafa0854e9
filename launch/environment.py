"""What this machine offers, and the environment the libraries below are run in. No torch here."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
from pathlib import Path


def accelerators() -> int:
    """CUDA devices this process may use, 0 on a CPU host."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([device for device in visible.split(",") if device.strip() not in ("", "-1")])
    return len([path for path in Path("/dev").glob("nvidia*") if path.name.removeprefix("nvidia").isdigit()])


def library_environment() -> dict[str, str]:
    """Variables to be set before torch and deepspeed are imported, unless the user has set them.

    The libraries' own warnings stay out of the output, and on a CPU each rank runs one thread: more would change
    the order of sums, and with it the bits of a gradient.
    """
    quiet = {"PYTHONWARNINGS": "ignore", "TOKENIZERS_PARALLELISM": "false"}
    return quiet if accelerators() else quiet | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}


def free_port() -> int:
    """Below those that the system gives to connections: the ranks listen seconds later, and one could be taken."""
    while True:
        port = 10_000 + secrets.randbelow(20_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("", port))  # ranks of other hosts come by other addresses than this one's loopback
            return port
