"""One job at a time in a run's folder: two would overwrite each other's checkpoints and log."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from configs.errors import ConfigError

try:
    import fcntl
except ImportError:  # no POSIX
    fcntl = None

LOCK = ".lock"
_GRACE_S = 10.0
"""A job that was just killed may take so long to be gone."""


def lock_output(folder: Path, grace_s: float = _GRACE_S) -> int | None:
    """Hold `folder` as long as this process lives, or until the returned descriptor is closed.

    The system lets go of it whatever way the process ends, so none is ever left over. None where the file system has
    no locks. Raises ConfigError where another process holds it for longer than `grace_s` seconds.
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
            if waited > 1 and not told:
                print(
                    f"{folder}: another job trains there; its end is awaited for {grace_s:g} s",
                    file=sys.stderr,
                )
                told = True
            if waited > grace_s:
                os.close(descriptor)
                raise ConfigError(
                    f"run.output_dir={folder}: another job trains there; wait for its end or stop it, or name "
                    "another folder"
                ) from None
            time.sleep(0.1)
        except OSError:
            os.close(descriptor)
            return None
        else:
            return descriptor
