"""The error for data that cannot be trained on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Where:
    """A place in a data file: its path and the 1-based line (JSONL) or row of an array, whose lines JSON hides."""

    file: str
    line: int
    in_array: bool = False

    def __str__(self) -> str:
        return f"{self.file} row {self.line}" if self.in_array else f"{self.file}:{self.line}"


class DataError(ValueError):
    """A row that is no conversation, or a source without any: one line naming file and line. Exit code 3."""

    exit_code = 3

    def __init__(self, message: str, where: Where | None = None) -> None:
        super().__init__(f"{where}: {message}" if where else message)
        self.where = where
