"""Rows of JSON out of files: arrays, JSONL and single objects, by index, each with its place in the file.

Values are what `json` reads, untouched: no table, no inferred columns, so a null or a missing key stays what
it was. Nothing here knows what a conversation is.
"""

from __future__ import annotations

import glob
import os
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Protocol

from configs.schema import SourceConfig
from tokenization.errors import DataError, Where
from trainer.data.json_files import JsonFile


class _File(Protocol):
    def __len__(self) -> int: ...
    def row(self, i: int) -> tuple[object, Where]: ...


class Source:
    """The rows of all files of one source, in file order (sorted by path), then in the order of each file."""

    def __init__(self, name: str, role: str, format: str, files: Sequence[_File]) -> None:
        self.name = name
        self.role = role
        self.format = format
        self._files = files
        self._ends = list(accumulate(len(file) for file in files))

    def __len__(self) -> int:
        return self._ends[-1]

    def row(self, i: int) -> tuple[object, Where]:
        """Row `i` (0-based) as JSON, and where it stands. Raises IndexError, or DataError with the line."""
        if not 0 <= i < len(self):
            raise IndexError(f"source {self.name!r} has rows 0 to {len(self) - 1}, not {i}")
        at = bisect_right(self._ends, i)
        return self._files[at].row(i - (self._ends[at - 1] if at else 0))


def open_source(config: SourceConfig) -> Source:
    """Finds the files of a source and counts their rows.

    Of a file only the places of its rows are kept; a row is read when it is asked for. An array's rows are found
    by parsing it once. Raises DataError where no file matches, a file is empty or unreadable, or an array is no JSON.
    """
    paths = _matches(config.path)
    if not paths:
        raise DataError(
            f"source {config.name!r}: no file matches path {config.path!r} "
            f"(read from folder {os.getcwd()}); correct data.sources[…].path"
        )
    try:
        files = [JsonFile(path) for path in paths]
    except OSError as error:
        raise DataError(f"source {config.name!r}: {error}") from error
    return Source(config.name, config.role, config.format, files)


def _matches(path: str) -> list[str]:
    if Path(path).is_file():  # a name may hold [ or ? itself
        return [path]
    return sorted(match for match in glob.glob(path, recursive=True) if Path(match).is_file())
