"""What each draw of each source gives: from the store where it lies, else from the row itself."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Protocol

from configs.schema import DataConfig
from tokenization.errors import DataError, Where
from tokenization.length import Fitted, Policy
from trainer.data.order import SourceOrder, held_out_count
from trainer.data.position import Position
from trainer.data.sample_store import SampleStore
from trainer.data.sources import Source

_POLL, _PATIENCE = 0.0005, 10.0
"""Seconds between two looks for what a worker is about to bring, and until it is no longer waited for."""


class SampleBuilder(Protocol):
    """Turns a row of JSON into tokens and their mask; a pure function of its arguments."""

    def fitted(
        self,
        row: object,
        *,
        source: str,
        format: str,
        where: Where,
        default_id: str,
        capacity: int,
        too_long: Policy,
    ) -> Fitted: ...


class Samples:
    """The samples of all sources, by draw. Whether a store or workers help changes nothing but the time it takes.

    stores:   one a source, or none at all
    held_out: share of each source's rows that no draw gives
    position: where the draws are told to the workers of this host; None: nobody works ahead
    """

    def __init__(
        self,
        sources: Sequence[Source],
        builder: SampleBuilder,
        config: DataConfig,
        seed: int,
        stores: Sequence[SampleStore] = (),
        position: Position | None = None,
        held_out: float = 0.0,
    ) -> None:
        self.sources = sources
        self.stores = stores
        self.position = position
        self._builder = builder
        self._config = config
        self._waits = True
        self._orders = [
            SourceOrder(seed, source.name, len(source), held_out_count(len(source), held_out))
            for source in sources
        ]

    def draw(self, i: int, k: int, *, wait: bool = False) -> Fitted:
        """What draw `k` of source `i` gives; to `wait` is to let a worker that is at it finish.

        Raises DataError, with a place where the fault is the row's.
        """
        row = self.row_of(i, k)
        if self.stores and wait and self._waits and self.position and not self.stores[i].has(row):
            given_up = time.monotonic() + _PATIENCE
            while not self.stores[i].has(row) and self.position.attended():
                if time.monotonic() > given_up:
                    self._waits = False  # whatever they are at, it is not this
                    break
                time.sleep(_POLL)
        return self.of_row(i, row)

    def of_row(self, i: int, row: int) -> Fitted:
        """What row `row` of source `i` gives; one without an id of its own is named after its number."""
        found = self.stores[i].get(row) if self.stores else None
        if found is not None:
            return found
        source = self.sources[i]
        try:
            content, where = source.row(row)
            fitted = self._builder.fitted(
                content,
                source=source.name,
                format=source.format,
                where=where,
                default_id=str(row),
                capacity=self._config.sequence_length,
                too_long=self._config.too_long,
            )
        except DataError:
            if self.stores:
                self.stores[i].put_bad(row)
            raise
        if self.stores:
            self.stores[i].put(row, fitted)
        return fitted

    def tell(self, i: int, draws: int) -> None:
        """Workers make what comes after `draws` draws of source `i`."""
        if self.position:
            self.position.tell(i, draws)

    def rows(self, i: int) -> int:
        """Draws in a pass over source `i`."""
        return self._orders[i].rows

    def row_of(self, i: int, k: int) -> int:
        """The row that draw `k` of source `i` takes."""
        return self._orders[i].row(k)
