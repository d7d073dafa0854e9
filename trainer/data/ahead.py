"""Processes of a host that tokenise ahead of its ranks, into the store that all of them read.

They are forked from the host's first rank before it begins with torch (which only a model's own template has imported
by then): so they share its tokenizer's memory, start in milliseconds, and take no part in what torch and CUDA do.
Each takes every n-th draw of each source. If they die or are slow, the ranks tokenise for themselves: the stream is
the same.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Sequence
from fractions import Fraction
from multiprocessing.process import BaseProcess

from tokenization.errors import DataError
from trainer.data.samples import Samples
from trainer.data.stream import RowStream

AHEAD = 4096
"""Draws of the mixture that are made ahead."""
_IDLE = 0.01
"""Seconds of sleep where all of them are made."""


def start_workers(stream: RowStream, count: int) -> Sequence[BaseProcess]:
    """Fork `count` workers, which end with this process at the latest; none where the stream's samples are not kept."""
    if not (stream.samples.stores and stream.samples.position):
        return []
    forked = multiprocessing.get_context("fork")
    workers = [
        forked.Process(target=_work, args=(stream, worker, count, os.getpid()), daemon=True)
        for worker in range(count)
    ]
    for worker in workers:
        worker.start()
    return workers


def _work(stream: RowStream, worker: int, workers: int, parent: int) -> None:
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)  # the ranks are told; SIGTERM is how they end us
    ahead = Ahead(stream.samples, stream.shares, worker, workers)
    position = stream.samples.position
    while os.getppid() == parent and all(store.writes for store in stream.samples.stores):
        if position:
            position.beat(worker)
        if not ahead.step():
            time.sleep(_IDLE)


class Ahead:
    """One worker's way ahead of the stream: of each source every `workers`-th draw, from its `worker`-th."""

    def __init__(self, samples: Samples, shares: Sequence[Fraction], worker: int, workers: int) -> None:
        self._samples = samples
        self._shares = shares
        self._workers = workers
        self._next = [worker] * len(shares)
        self._told = [0] * len(shares)

    def step(self) -> bool:
        """Make the sample that is due soonest; False where none is due."""
        position = self._samples.position
        assert position is not None
        chosen, soonest = -1, float(AHEAD)
        for i, share in enumerate(self._shares):
            if not share:
                continue
            told = position.told(i)
            # The stream has gone past this worker, or begins again: counting epochs draws from the start, and then
            # training goes on from a checkpoint. What is kept already costs microseconds to pass over.
            if told > self._next[i] or told < self._told[i]:
                self._next[i] -= (self._next[i] - told) // self._workers * self._workers
            self._told[i] = told
            due = (self._next[i] - told) / float(share)
            if due < soonest:
                chosen, soonest = i, due
        if chosen < 0:
            return False
        row = self._samples.row_of(chosen, self._next[chosen])
        if not self._samples.stores[chosen].has(row):
            with contextlib.suppress(DataError):  # the rank that draws it meets it too, and says so
                self._samples.of_row(chosen, row)
        self._next[chosen] += self._workers
        return True
