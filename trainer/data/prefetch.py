"""Global batches made in a thread while the step before them runs."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import NamedTuple

from trainer.data.bad_rows import BadRow
from trainer.data.micro_batch import GlobalBatch, global_batches
from trainer.data.state import State
from trainer.data.stream import RowStream


class Fetched(NamedTuple):
    batch: GlobalBatch
    state: State
    """Where the stream stood after the batch; it is further on by the time this is read."""
    bad_rows: tuple[BadRow, ...]
    """Those left out since the batch before."""


class Prefetch(Iterator[Fetched]):
    """The batches of a stream, one of them ahead. The stream belongs to the thread until `close`.

    An error in making a batch is raised when that batch is asked for, so one beyond the last step does no harm.
    """

    def __init__(self, stream: RowStream, rows: int) -> None:
        self._made: queue.Queue[Fetched | tuple[Exception, tuple[BadRow, ...]]] = queue.Queue(maxsize=1)
        self._closed = threading.Event()
        self.bad_rows: tuple[BadRow, ...] = ()
        """Left out on the way to a batch that could not be made."""
        self._thread = threading.Thread(target=self._make, args=(stream, rows), daemon=True)
        self._thread.start()

    def __next__(self) -> Fetched:
        made = self._made.get()
        if isinstance(made, Fetched):
            return made
        error, self.bad_rows = made
        raise error

    def close(self) -> None:
        """End the thread, at the latest after the batch it is at."""
        self._closed.set()
        while self._thread.is_alive():
            try:
                self._made.get(timeout=0.01)
            except queue.Empty:
                continue

    def _make(self, stream: RowStream, rows: int) -> None:
        batches = global_batches(stream, rows)
        while not self._closed.is_set():
            try:
                made = Fetched(next(batches), stream.state(), stream.take_bad_rows())
            except Exception as error:
                self._made.put((error, stream.take_bad_rows()))
                return
            self._made.put(made)
