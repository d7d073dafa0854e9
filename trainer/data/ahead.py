"""Processes of a host that tokenise ahead of its ranks, into the store that all of them read.

They are forked from the host's first rank before it has imported torch: so they share its tokenizer's memory, start in
milliseconds, and take no part in what torch and CUDA do. Each takes every n-th draw of each source. If they die or are
slow, the ranks tokenise for themselves: the stream is the same.
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
    samples, shares = stream.samples, stream.shares
    mine = [worker] * len(shares)
    while os.getppid() == parent and all(store.writes for store in samples.stores):
        assert samples.position is not None
        samples.position.beat(worker)
        if not step_ahead(samples, shares, mine, workers):
            time.sleep(_IDLE)


def step_ahead(samples: Samples, shares: Sequence[Fraction], mine: list[int], workers: int) -> bool:
    """Make the next sample of this worker's, `mine[i]` being its next draw of source i; False where none is due."""
    position = samples.position
    assert position is not None
    chosen, soonest = -1, float(AHEAD)
    for i, share in enumerate(shares):
        if not share:
            continue
        behind = position.told(i) - mine[i]
        if behind > 0:
            mine[i] += -(-behind // workers) * workers
        due = (mine[i] - position.told(i)) / float(share)
        if due < soonest:
            chosen, soonest = i, due
    if chosen < 0:
        return False
    row = samples.row_of(chosen, mine[chosen])
    if not samples.stores[chosen].has(row):
        with contextlib.suppress(DataError):  # the rank that draws it meets it too, and says so
            samples.of_row(chosen, row)
    mine[chosen] += workers
    return True
