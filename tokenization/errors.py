"""The error for data that cannot be trained on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Where:
    """A place in a data file: the 1-based line that a row begins on, and in arrays and tables which row it is."""

    file: str
    line: int | None
    """None in a table."""
    row: int | None = None
    """From 1; only where rows are not counted by their lines."""

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        return place if self.row is None else f"{place} (row {self.row})"


class DataError(ValueError):
    """A row that is no conversation, or a source without any: one line naming file and line. Exit code 3."""

    exit_code = 3

    def __init__(self, message: str, where: Where | None = None) -> None:
        super().__init__(f"{where}: {message}" if where else message)
        self.where = where
