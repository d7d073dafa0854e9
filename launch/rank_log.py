"""What a rank says beside what a person is told: a file for each, under the run's folder."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
import traceback
from pathlib import Path

LOGS = "logs"


class RankLog:
    """A rank's own file. One that cannot be written is done without."""

    def __init__(self, rank: int) -> None:
        self._rank = rank
        self._file: Path | None = None
        """None before it is begun."""

    def begin(self, folder: Path) -> None:
        """Begin, or go on with, the log. What libraries write in any rank but 0 goes there from now on.

        Those write to descriptors 1 and 2. `sys.stderr` is what it was, for what a person should be told.
        """
        self._file = folder / LOGS / f"rank-{self._rank:05d}.log"
        process = f"process {os.getpid()} on {socket.gethostname()}"
        with contextlib.suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._append(f"{time.strftime('%Y-%m-%d %H:%M:%S')} rank {self._rank} begins: {process}\n")
            if self._rank:
                self._take(self._file)

    def error(self, error: BaseException) -> str:
        """Put an error there with its traceback. Returns where that is, in brackets, or nothing."""
        with contextlib.suppress(OSError):
            if self._append("".join(traceback.format_exception(error))):
                return f" (see {self._file})"
        return ""

    def _append(self, text: str) -> bool:
        if self._file is None:
            return False
        with self._file.open("a", encoding="utf-8") as log:
            log.write(text)
        return True

    @staticmethod
    def _take(file: Path) -> None:
        log = os.open(file, os.O_WRONLY | os.O_APPEND)
        sys.stderr = os.fdopen(os.dup(2), "w", encoding="utf-8", errors="replace", buffering=1)
        for descriptor in (1, 2):
            os.dup2(log, descriptor)
        os.close(log)
