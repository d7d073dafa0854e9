"""Trials of a fault: a few of them by default, all with FAULT_TRIALS=1, and one alone to see it again.

FAULT_TRIALS  share of all trials, such as 0.1; without it a few
FAULT_TRIAL   the number of the only trial to do
FAULT_SEED    another seed is another sample, other moments, other damage

What a test has a few kinds of (ranks, layouts, forms of damage) its trials take in turn, so that a few differ in each.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from types import TracebackType
from typing import TypeVar

SHARE = float(os.environ["FAULT_TRIALS"]) if "FAULT_TRIALS" in os.environ else None
SEED = int(os.environ.get("FAULT_SEED", "1"))
ONLY = int(os.environ["FAULT_TRIAL"]) if "FAULT_TRIAL" in os.environ else None
Kind = TypeVar("Kind")
LONG = SHARE is not None
_SPOKEN_S = 30
"""Seconds between two lines of progress."""


@dataclass
class Row:
    """What the table says of a fault."""

    fault: str
    held: str
    """What must hold, and did but for `failures`."""
    trials: int = 0
    worst_s: float = 0.0
    failures: int = 0


class Trial:
    """One of them: a context that keeps a failure back until all trials are done."""

    def __init__(self, number: int, name: str) -> None:
        self.number = number
        self.random = Random(f"{SEED} {name} {number}")
        """Its own, so that a trial is the same alone and among others."""
        self.seconds: float | None = None
        """What the table is to show of it, where that is not how long it took."""
        self.error: Exception | None = None
        self._begun = 0.0
        self._rest = number
        self._first: int | None = None
        """What its first turn came to."""

    def __enter__(self) -> Trial:
        self._begun = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if self.seconds is None:
            self.seconds = time.monotonic() - self._begun
        self.error = error if isinstance(error, Exception) else None
        return self.error is not None

    def turn(self, choices: Sequence[Kind]) -> Kind:
        """The one of `choices` whose turn it is. Where their numbers do not hang on what was chosen before, each
        combination of a trial's turns comes once in as many trials as there are; the next trial has another of the
        first, and mostly of every other."""
        self._rest, place = divmod(self._rest, len(choices))
        chosen = choices[(place + (self._first or 0)) % len(choices)]
        self._first = place if self._first is None else self._first
        return chosen


class Trials:
    """A test's trials."""

    def __init__(self, name: str, table: list[Row], tell: Callable[[str], None]) -> None:
        """`name` is what pytest is told to run the test again."""
        self._name = name
        self._table = table
        self._tell = tell

    def __call__(self, fault: str, held: str, *, few: int, of: int) -> Iterator[Trial]:
        """Trials out of those numbered 0 to `of` - 1, `few` of them by default.

        Raises an ExceptionGroup after the last where some failed; each says how it is done again.
        """
        row, spoken = Row(fault, held), time.monotonic()
        self._table.append(row)
        errors: list[Exception] = []
        numbers = self._chosen(few, of)
        for number in numbers:
            trial = Trial(number, self._name)
            yield trial
            row.trials += 1
            row.worst_s = max(row.worst_s, trial.seconds or 0.0)
            if trial.error:
                row.failures += 1
                share = f"FAULT_TRIALS={SHARE} " if LONG else ""
                again = f"{share}FAULT_SEED={SEED} FAULT_TRIAL={number} .venv/bin/pytest '{self._name}'"
                trial.error.add_note(f"trial {number} of {fault}; to see it again: {again}")
                errors.append(trial.error)
            if trial.error or time.monotonic() - spoken > _SPOKEN_S or number == numbers[-1]:
                spoken = time.monotonic()
                self._tell(f"{fault}: {row.trials} of {len(numbers)} trials, {row.failures} failed")
        if errors:
            raise ExceptionGroup(f"{len(errors)} of {row.trials} trials failed", errors)

    def _chosen(self, few: int, of: int) -> list[int]:
        if ONLY is not None:
            return [ONLY] if of > ONLY else []
        random = Random(f"{SEED} {self._name}")
        if SHARE is None:
            first = random.randrange(max(1, of // few)) * few
            return list(range(first, min(first + few, of)))
        return sorted(random.sample(range(of), min(max(few, round(SHARE * of)), of)))


def drawn(table: list[Row]) -> list[str]:
    """The table's lines."""
    lines = [("fault", "trials", "what held", "worst", "failures")]
    lines += [(r.fault, str(r.trials), r.held, f"{r.worst_s:.1f} s", str(r.failures)) for r in table]
    lines += [("all", str(sum(r.trials for r in table)), "", "", str(sum(r.failures for r in table)))]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
