"""Failures of one rank kept back while other ranks still need it in their collectives."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class GivenUpError(OSError):
    """Another rank has failed: what this one had still to write would be for nothing."""


class Postponed:
    """Each `attempt` may fail without ending the others; `settle` raises the first failure, if there was one.

    A rank whose disk is full that simply raised would leave the rest waiting in a gather it never joins. Other faults,
    out of memory for one, may come in the middle of a gather: they end the rank at once, and with it the job.
    """

    def __init__(self, mark: Path) -> None:
        """`mark` is a file that all ranks see. Made by one that fails, it spares the others the rest of their files."""
        self.first: Exception | None = None
        self._mark = mark

    @contextmanager
    def attempt(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:
            if not self.first and not isinstance(error, GivenUpError):
                with contextlib.suppress(OSError):  # where it cannot be made they write on
                    self._mark.touch()
            self.first = self.first or error

    def look(self) -> None:
        """Before a large file is written. Raises GivenUpError where a rank has failed."""
        if self.first or self._mark.exists():
            raise GivenUpError("a rank could not write its part")

    def settle(self) -> None:
        if self.first:
            raise self.first
