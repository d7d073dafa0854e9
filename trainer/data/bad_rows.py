"""Rows that cannot be trained on and are left out, as `data.on_error=skip` asks: told one by one and counted."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import takewhile
from math import inf
from pathlib import Path

from tokenization.errors import DataError, Where

QUARANTINE = "quarantine.jsonl"
OTHER = "other reasons"
_REASONS = 30
"""Reasons told apart; the cursor must stay small."""
_PARTICULAR = re.compile(r"(?<!\w)'[^']*'(?!\w)|\"[^\"]*\"|\d+")
"""What differs between two rows with one fault; an apostrophe opens no quotation."""


@dataclass(frozen=True)
class BadRow:
    """A line of the quarantine file."""

    source: str
    file: str
    line: int | None
    row: int | None
    """In arrays and tables, from 1."""
    reason: str
    message: str

    def __str__(self) -> str:
        return f"{Where(self.file, self.line, self.row)}: {self.message}"


def bad_row(source: str, error: DataError) -> BadRow:
    """The fault of a row; `error` has a place."""
    where = error.where
    assert where is not None
    message = str(error).removeprefix(f"{where}: ")
    return BadRow(source, where.file, where.line, where.row, reason(message), message)


def reason(message: str) -> str:
    """A fault's kind: its message without the remedy, and without what is particular to the row."""
    return _PARTICULAR.sub("…", message.partition(";")[0])[:120]


def counted(reasons: Mapping[str, int], reason: str) -> dict[str, int]:
    """The counts with one more of a reason."""
    if reason not in reasons and len(reasons) >= _REASONS:
        reason = OTHER
    return {**reasons, reason: reasons.get(reason, 0) + 1}


def _number(line: bytes) -> float:
    """Of a row in the quarantine file; infinite where the line cannot be read."""
    try:
        return json.loads(line)["number"]
    except (ValueError, KeyError, TypeError):
        return inf


def told(reasons: Mapping[str, int]) -> str:
    """The counts in words, the most frequent first."""
    ordered = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count:,} x {reason}" for reason, count in ordered)


class Quarantine:
    """The quarantine file of a run, one JSON object a row in the order the rows were drawn and left out.

    It holds the rows that are counted, against data.max_bad_rows too, and no others: each once, in its first pass. They
    are numbered as they are counted: a run that begins with another run's checkpoint has counted that one's too.
    """

    def __init__(self, folder: Path, known: int) -> None:
        """`known` rows are behind a resumed run; later lines of an earlier attempt are dropped."""
        self.path = folder / QUARANTINE
        self._rows = known
        self._next = known + 1
        """So many rows are worth a line in the log. It doubles, so that a long run is not told of each."""
        if self.path.is_file():
            lines = self.path.read_bytes().split(b"\n")[:-1]  # other line ends may stand in texts
            kept = takewhile(lambda line: _number(line) <= known, lines)
            os.truncate(self.path, sum(len(line) + 1 for line in kept))

    def add(self, rows: Sequence[BadRow], *, ends: bool = False) -> str:
        """Append rows, if any. Returns a line for the log, "" where it would come too soon after the one before.

        ends: the run does, and is told what was left out in all
        """
        if rows:
            with self.path.open("a", encoding="utf-8") as file:
                for number, row in enumerate(rows, start=self._rows + 1):
                    values = {"number": number, **asdict(row)}
                    file.write(json.dumps(values, ensure_ascii=False) + "\n")
            self._rows += len(rows)
        if self._rows < self._next and not (ends and self._rows):
            return ""
        self._next = max(self._next, 2 * self._rows)
        said = (
            f"{self._rows:,} bad row(s) left out {'in all' if ends else 'so far'}, each told in {self.path}"
        )
        return f"{said}; the latest: {rows[-1]}" if rows else said
