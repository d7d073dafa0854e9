"""A rank never outlives its launcher, however that died."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from pathlib import Path

from trainer.data.notices import LAUNCHER_VARIABLE
from trainer.hang import ended

LAUNCHERS = (
    *("deepspeed", "agenttune", "torchrun", "torch.distributed"),
    *("launch/train.py", "launch/batch.py", "launch.cli", "launch.host"),
)
"""What stands in the first words of a launcher's command line, after the interpreter."""


def launcher_pids() -> list[int]:
    """This process's ancestors up to the last that is a launcher, nearest first."""
    found: list[int] = []
    pid = os.getppid()
    while pid > 0:  # a container's first process may be one
        if not is_launcher(_command(pid)):
            break
        found.append(pid)
        pid = _parent(pid)
    return found


def is_launcher(command: list[str]) -> bool:
    """Whether a command line is Python running a launcher; a shell that merely names one is not."""
    python = bool(command) and Path(command[0]).name.startswith("python")
    return python and any(name in word for word in command[1:4] for name in LAUNCHERS)


def die_with_launcher() -> None:
    """End this process as soon as any of its launchers ends.

    SIGKILL reaches one process of a launcher's chain alone, so each of them is watched. Linux only (pidfd);
    elsewhere it does nothing.
    """
    if not hasattr(os, "pidfd_open"):
        return
    pids = launcher_pids()
    started_by = os.environ.get(LAUNCHER_VARIABLE)
    if started_by and int(started_by) not in pids:  # it died while this rank started
        os._exit(1)
    die_with(pids)


def die_with(pids: Iterable[int]) -> None:
    """End this process as soon as any of some others ends; a thread waits on them without polling. Linux only."""
    if not hasattr(os, "pidfd_open"):
        return
    descriptors: list[int] = []
    for pid in pids:
        try:
            descriptors.append(os.pidfd_open(pid))
        except ProcessLookupError:
            os._exit(1)
    if descriptors:
        threading.Thread(target=_wait_and_exit, args=(descriptors,), daemon=True).start()


def _wait_and_exit(descriptors: list[int]) -> None:
    ended(descriptors, None)
    os._exit(1)


def _command(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []


def _parent(pid: int) -> int:
    """The parent's id from /proc/PID/stat, whose second field may hold spaces and brackets; 0 where gone."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return 0
