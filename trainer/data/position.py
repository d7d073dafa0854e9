"""How far the stream has been drawn, told to the processes of a host that work ahead of it, and that they are alive."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

_ALIVE = 2_000_000_000
"""Nanoseconds in which each worker is heard of, unless it is dead or at a very long row."""


class Position:
    """A few numbers in a file that all processes of a host map: the draws of each source, and a pulse a worker.

    Numbers are written whole, and one that is old does no harm: a worker then works ahead a little less.
    """

    def __init__(self, file: Path, sources: int, workers: int, *, writes: bool) -> None:
        """`writes` is for the host's first rank, which makes the file anew: its draws are the ones that are told."""
        self._writes = writes
        if writes:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.unlink(missing_ok=True)
        self._file = file
        self._sources = sources
        self._size = sources + workers
        self._numbers: np.memmap | None = None  # int64 [sources + workers]
        self._open()

    def tell(self, source: int, draws: int) -> None:
        """The stream has drawn `draws` times from the source."""
        if self._writes and self._numbers is not None:
            self._numbers[source] = draws

    def told(self, source: int) -> int:
        return 0 if self._numbers is None else int(self._numbers[source])

    def beat(self, worker: int) -> None:
        """The worker is there."""
        if self._numbers is not None:
            self._numbers[self._sources + worker] = time.monotonic_ns()

    def attended(self) -> bool:
        """Whether every worker was heard of lately."""
        return self._heard() or (not self._writes and self._open() and self._heard())

    def _heard(self) -> bool:
        if self._numbers is None:
            return False
        oldest = int(self._numbers[self._sources :].min(initial=2**63 - 1))
        return oldest > 0 and abs(time.monotonic_ns() - oldest) < _ALIVE

    def _open(self) -> bool:
        """Map the file; the host's first rank may have made it anew since."""
        try:
            if self._writes:
                self._file.write_bytes(bytes(8 * self._size))
            self._numbers = np.memmap(self._file, np.int64, "r+", shape=(self._size,))
        except (OSError, ValueError):
            self._numbers = None
        return self._numbers is not None
