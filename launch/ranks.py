"""The rank processes under a launcher, seen from above it: who they are, and which ended first."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import threading
import time
from pathlib import Path

import psutil

ENTRY = Path(__file__).with_name("train.py")


class Ranks:
    """Watches for the first of `count` ranks to end: the others follow it within a fraction of a second."""

    def __init__(self, launcher: subprocess.Popen[bytes], count: int) -> None:
        self._launcher = launcher
        self._count = count
        self.first_ended: int | None = None
        """Rank that ended first, once one has; None too where the system cannot tell (no pidfd)."""
        if hasattr(os, "pidfd_open"):
            threading.Thread(target=self._watch, daemon=True).start()

    def alive(self) -> dict[int, psutil.Process]:
        """The launcher's processes that are ranks, by rank."""
        found: dict[int, psutil.Process] = {}
        pids: set[int] = set()
        with contextlib.suppress(psutil.Error):
            for process in psutil.Process(self._launcher.pid).children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    # A rank's own children have its command line: those that tokenise ahead are forked from it.
                    if str(ENTRY) in process.cmdline() and process.ppid() not in pids:
                        pids.add(process.pid)
                        found[int(process.environ()["RANK"])] = process
        return found

    def _watch(self) -> None:
        ranks = self.alive()
        while len(ranks) < self._count:
            if self._launcher.poll() is not None:
                return
            time.sleep(0.2)
            ranks = self.alive()
        try:
            descriptors = {os.pidfd_open(process.pid): rank for rank, process in ranks.items()}
        except ProcessLookupError:
            return
        ended, _, _ = select.select(list(descriptors), [], [])
        self.first_ended = descriptors[ended[0]]
