"""Failures of one rank kept back while other ranks still need it in their collectives."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class Postponed:
    """Each `attempt` may fail without ending the others; `settle` raises the first failure, if there was one.

    A rank whose disk is full that simply raised would leave the rest waiting in a gather it never joins. Other faults,
    out of memory for one, may come in the middle of a gather: they end the rank at once, and with it the job.
    """

    def __init__(self) -> None:
        self.first: Exception | None = None

    @contextmanager
    def attempt(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:
            self.first = self.first or error

    def settle(self) -> None:
        if self.first:
            raise self.first
