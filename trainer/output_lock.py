"""One job at a time in a run's folder: two would overwrite each other's checkpoints and log."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
from pathlib import Path

from configs.errors import ConfigError

try:
    import fcntl
except ImportError:  # no POSIX
    fcntl = None

LOCK = ".lock"
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_GRACE_S = 10.0
"""A job that was just killed may take so long to be gone."""
_LEASE_S = 120.0
"""The server of a network disk may keep the lock of a machine that is gone for its lease, 90 s by Linux's default."""


def lock_output(folder: Path, grace_s: float | None = None) -> int | None:
    """Hold `folder` as long as this process lives, or until the returned descriptor is closed.

    The system lets go of it whatever way the process ends, so none is ever left over. None where the file system has
    no locks. Raises ConfigError where another process holds it for longer than `grace_s` seconds; None: as long as one
    that is gone may hold it, which is longer on another machine.
    """
    if fcntl is None:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    begun, told = time.monotonic(), False
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waited = time.monotonic() - begun
            machine, job = _holder(descriptor)
            who = f" ({job})" if job else ""
            grace = (
                (_LEASE_S if machine not in ("", _machine()) else _GRACE_S) if grace_s is None else grace_s
            )
            if waited > 1 and not told:
                print(
                    f"{folder}: another job trains there{who}; its end is awaited for {grace:g} s",
                    file=sys.stderr,
                )
                told = True
            if waited > grace:
                os.close(descriptor)
                raise ConfigError(
                    f"run.output_dir={folder}: another job trains there{who}; wait for its end or stop it, or name "
                    "another folder"
                ) from None
            time.sleep(0.1)
        except OSError:
            os.close(descriptor)
            return None
        else:
            with contextlib.suppress(OSError):  # a full disk does not make the lock less
                os.ftruncate(descriptor, 0)
                us = f"{_machine()} process {os.getpid()} on {socket.gethostname()}\n"
                os.pwrite(descriptor, us.encode(), 0)
                os.fsync(descriptor)  # for other machines to see
            return descriptor


def _holder(descriptor: int) -> tuple[str, str]:
    """The machine of the job that holds the lock, and the job in words; empty where it has not told, or cannot."""
    try:
        machine, _, job = os.pread(descriptor, 1000, 0).decode(errors="replace").strip().partition(" ")
    except OSError:
        return "", ""
    return machine, job


def _machine() -> str:
    """A name that no other has: containers of two machines may have the same host name."""
    try:
        return BOOT_ID.read_text().strip()
    except OSError:
        return socket.gethostname()
