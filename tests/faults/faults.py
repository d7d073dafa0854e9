"""What can go wrong in one rank, and when: plain values, so that they reach the rank as JSON."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import Literal

Kind = Literal["signal", "exit", "raise", "starve", "delay", "errno", "limit"]

CLOCK = "clock"
"""An event that comes after a number of seconds. All others are counted."""
BEGIN = "begin"
"""The first of a rank."""
BATCH = "batch"
"""The loop asks for the batch of its next step."""
READ = "read"
"""Bytes are read back from a file of a checkpoint that is not committed yet."""
SAVE = "save"
"""Any of CHANGES."""
CHANGES = ("create", "write", "fsync", "rename", "remove", "mkdir", "rmdir")
"""Calls of the operating system that a checkpoint is made of, each told before it is made; a write in its middle."""

EVENTS, FIRED, SAID = "events-{}.jsonl", "fired-{}.jsonl", "said-{}.txt"
"""What a rank notes: each event below the checkpoints' folder, each fault that came, what it printed to stderr."""


@dataclass(frozen=True)
class Fault:
    """Comes over `rank` at the `at`-th `event` (from 0); of CLOCK, `at` seconds after the rank began."""

    rank: int
    kind: Kind
    value: float = 0
    """Number of the signal, exit code, seconds, errno, or bytes that a file may have from now on."""
    event: str = CLOCK
    at: float = 0

    def due(self, event: str, before: int) -> bool:
        """Whether it comes now, `before` events of its kind having been."""
        return self.waits_for(event) and before == self.at

    def waits_for(self, event: str) -> bool:
        return self.event == event or (self.event == SAVE and event in CHANGES)


def kill(rank: int, event: str, at: float) -> Fault:
    """A rank that the system takes away: out of memory, a node lost."""
    return Fault(rank, "signal", signal.SIGKILL, event, at)
