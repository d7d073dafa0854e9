"""Rows of JSON out of files: JSON arrays and JSONL, by index, each with its place in the file.

Values are what `json` reads, untouched: no table, no inferred columns, so a null or a missing key stays what
it was. Nothing here knows what a conversation is.
"""

from __future__ import annotations

import glob
import json
import os
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import NoReturn, Protocol

import numpy as np
from numpy.typing import NDArray

from configs.schema import SourceConfig
from tokenization.errors import DataError, Where

_BOM = b"\xef\xbb\xbf"


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
        value, where = self._files[at].row(i - (self._ends[at - 1] if at else 0))
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise DataError(
                "an escaped half of a surrogate pair (\\ud800 to \\udfff) is no text", where
            ) from None
        return value, where


def open_source(config: SourceConfig) -> Source:
    """Finds the files of a source and counts their rows.

    JSON arrays are parsed at once; of JSONL only the line starts are kept, and a line is parsed on demand.
    Raises DataError where no file matches, a file is empty or unreadable, or an array is no JSON.
    """
    paths = _matches(config.path)
    if not paths:
        raise DataError(
            f"source {config.name!r}: no file matches path {config.path!r} "
            f"(read from folder {os.getcwd()}); correct data.sources[…].path"
        )
    try:
        files = [_open_file(path) for path in paths]
    except OSError as error:
        raise DataError(f"source {config.name!r}: {error}") from error
    return Source(config.name, config.role, config.format, files)


def _matches(path: str) -> list[str]:
    if Path(path).is_file():  # a name may hold [ or ? itself
        return [path]
    return sorted(match for match in glob.glob(path, recursive=True) if Path(match).is_file())


def _open_file(path: str) -> _File:
    """An array where the first byte that is no white space is `[`, else JSONL."""
    with open(path, "rb") as file:
        start = len(_BOM) if file.read(len(_BOM)) == _BOM else 0
        file.seek(start)
        first = b""
        for line in file:
            first = line.strip()[:1]
            if first:
                break
    if not first:
        raise DataError(f"{path}: file without any row; remove it or fill it")
    return _JsonArray(path, start) if first == b"[" else _JsonLines(path, start)


class _JsonArray:
    def __init__(self, path: str, start: int) -> None:
        self._path = path
        rows = _parse(Path(path).read_bytes()[start:], Where(path, 1))
        if not isinstance(rows, list) or not rows:
            raise DataError(f"{path}: file without any row; remove it or fill it")
        self._rows: list[object] = rows

    def __len__(self) -> int:
        return len(self._rows)

    def row(self, i: int) -> tuple[object, Where]:
        return self._rows[i], Where(self._path, i + 1, in_array=True)


class _JsonLines:
    def __init__(self, path: str, start: int) -> None:
        self._path = path
        self._offsets, self._lines = _index_lines(path, start)

    def __len__(self) -> int:
        return len(self._offsets)

    def row(self, i: int) -> tuple[object, Where]:
        where = Where(self._path, int(self._lines[i]))
        with open(self._path, "rb") as file:
            file.seek(int(self._offsets[i]))
            # The line end is cut off, or an unfinished value would be reported on the line after.
            return _parse(file.readline().rstrip(b"\r\n"), where), where


def _index_lines(path: str, start: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Byte offset and 1-based number of each line that is not blank; int64 [rows] both."""
    offsets: list[int] = []
    numbers: list[int] = []
    offset = start
    with open(path, "rb") as file:
        file.seek(start)
        for number, line in enumerate(file, start=1):
            if not line.isspace():
                offsets.append(offset)
                numbers.append(number)
            offset += len(line)
    return np.array(offsets, np.int64), np.array(numbers, np.int64)


def _parse(data: bytes, where: Where) -> object:
    """JSON as its standard has it (no NaN, no Infinity), or DataError; `data` begins on the line `where`."""
    try:
        return json.loads(data.decode("utf-8"), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        line = where.line + data.count(b"\n", 0, error.start)
        reason = f"byte {data[error.start]:#04x} is not UTF-8; save the file as UTF-8"
        raise DataError(reason, Where(where.file, line)) from None
    except json.JSONDecodeError as error:
        reason = (
            f"no JSON: {error.msg} (column {error.colno}); a file is one array, or one JSON value per line"
        )
        raise DataError(reason, Where(where.file, where.line + error.lineno - 1)) from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"no JSON: {error}", where) from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not part of JSON; write null or a number")
