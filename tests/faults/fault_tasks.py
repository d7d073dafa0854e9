"""A run with faults in some of its ranks. What happens is noted in a folder, by rank and before it does."""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from faults import BATCH, BEGIN, CLOCK, EVENTS, FIRED, SAID, Fault
from points import watch

from configs.load import load_config
from tests.distributed import rank_tasks
from tokenization.errors import DataError
from trainer.data.prefetch import Prefetch


def train(
    config: str,
    overrides: list[str],
    faults: list[dict[str, Any]],
    notes: str,
    draws: bool = False,
    environment: Mapping[str, str] | None = None,
    **more: Any,
) -> int:
    """`rank_tasks.train_run`, which `more` is for, under this rank's share of the faults.

    environment: variables that the rank has beside its own
    draws: numbers are drawn before each step, so that random states are others after it, as dropout would have it
    """
    os.environ.update(environment or {})
    rank, folder = int(os.environ["RANK"]), Path(notes)
    os.dup2(os.open(folder / SAID.format(rank), os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    armed = Armed([fault for fault in (Fault(**f) for f in faults) if fault.rank == rank], folder, rank)
    output = Path(load_config(config, overrides).run.output_dir)
    watch(output / "checkpoints", armed.meet)
    _tell_of_batches(armed, draws)
    return rank_tasks.train_run(config, overrides, **more)


class Armed:
    """The faults that are to come over this rank."""

    def __init__(self, faults: Sequence[Fault], notes: Path, rank: int) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        self._events = os.open(notes / EVENTS.format(rank), flags)
        self._fired = os.open(notes / FIRED.format(rank), flags)
        self._counts = dict.fromkeys((fault for fault in faults if fault.event != CLOCK), 0)
        self._lock = threading.Lock()
        _note(self._events, BEGIN, "")
        for fault in faults:
            if fault.event == CLOCK:
                timer = threading.Timer(fault.at, self._come, [fault, CLOCK, ""])
                timer.daemon = True
                timer.start()

    def meet(self, event: str, path: str) -> None:
        """An event is about to be. Does not return where a fault ends the rank, raises where one is an error."""
        due: list[Fault] = []
        with self._lock:
            for fault, before in self._counts.items():
                due += [fault] if fault.due(event, before) else []
                self._counts[fault] += fault.waits_for(event)
        for fault in due:
            self._come(fault, event, path)
        _note(self._events, event, path)

    def _come(self, fault: Fault, event: str, path: str) -> None:
        _note(self._fired, event, path)
        match fault.kind:
            case "signal":
                os.kill(os.getpid(), int(fault.value))
            case "exit":
                os._exit(int(fault.value))
            case "delay":
                time.sleep(fault.value)
            case "limit":
                hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
                resource.setrlimit(resource.RLIMIT_FSIZE, (int(fault.value), hard))
            case "errno":
                _refuse(int(fault.value), event, path)
            case "starve":
                raise DataError("planted: the data of this rank is at its end")
            case "raise":
                raise RuntimeError("planted: this rank raises")


def _refuse(number: int, event: str, path: str) -> NoReturn:
    """As the system would: calls that are given a descriptor do not know the name of its file."""
    said = os.strerror(number)
    raise OSError(number, said) if event in ("write", "read", "fsync") else OSError(number, said, path)


def _note(descriptor: int, event: str, path: str) -> None:
    line = json.dumps({"event": event, "path": path, "at": time.monotonic()})
    with contextlib.suppress(OSError):  # this rank's files may be limited by a fault
        os.write(descriptor, line.encode() + b"\n")


def _tell_of_batches(armed: Armed, draws: bool) -> None:
    next_batch = Prefetch.__next__

    def told(self: Prefetch) -> Any:
        armed.meet(BATCH, "")
        if draws:
            random.random()
            np.random.random()
            torch.rand(1)
        return next_batch(self)

    Prefetch.__next__ = told
