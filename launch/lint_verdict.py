"""Whether training goes through with the rows that lint has seen, and what becomes of the bad ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from configs.schema import DataConfig
from launch.preflight import FIRST_ROWS


class Seen(NamedTuple):
    """What counts of one source."""

    name: str
    rows: int
    samples: int
    bad: int
    early: int
    """The bad ones among the first FIRST_ROWS, which are read before ranks start."""


class Verdict(NamedTuple):
    """One thing that training does, in a line."""

    said: str
    stops: bool
    told_of_rows: bool
    """Whether rows are reported as errors for it, so that it is none of its own."""


def is_early(row: int) -> bool:
    """Whether training reads a row, from 0, of each source before it starts."""
    return row < FIRST_ROWS


def verdicts(data: DataConfig, sources: Sequence[Seen]) -> Iterator[Verdict]:
    """What training does, by data.on_error and data.max_bad_rows, with sources of which all rows were seen."""
    shares = {source.name: data.eta if source.role == "agent" else 1 - data.eta for source in data.sources}
    drawn = [source for source in sources if shares[source.name] > 0]  # the others are never read
    bad, early = sum(source.bad for source in drawn), sum(source.early for source in drawn)
    if bad:
        yield _of_bad_rows(data, bad, early)
    for source in drawn:
        if not source.samples:
            remedy = "mend it, take it away, or raise data.sequence_length"
            said = f"source {source.name!r}: none of its {source.rows:,} rows can be trained on, so training stops"
            yield Verdict(f"{said}; {remedy}", stops=True, told_of_rows=False)


def _of_bad_rows(data: DataConfig, bad: int, early: int) -> Verdict:
    strict, limit = data.on_error == "strict", data.max_bad_rows
    said = f"{bad:,} bad row(s), data.on_error={data.on_error}"
    if not strict and bad <= limit:
        said += f": training leaves out each that it draws, data.max_bad_rows={limit} allows so many"
        return Verdict(said, stops=False, told_of_rows=False)
    allowed = 0 if strict else limit
    stop = "does not start" if early > allowed else f"stops when it has drawn {allowed + 1:,} of them"
    if strict:
        raised = f" data.max_bad_rows={bad}" if bad > limit else ""
        return Verdict(
            f"{said}: training {stop}; mend them, or leave them out with data.on_error=skip{raised}",
            True,
            True,
        )
    said += f" with data.max_bad_rows={limit}: training {stop}; mend them, or set data.max_bad_rows={bad}"
    return Verdict(said, stops=True, told_of_rows=False)
