"""A file's rows by index, each with its place: JSON in lines, in an array or as one object, and Parquet."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

from tokenization.errors import DataError, Where
from trainer.data.json_places import ARRAY, scan_json
from trainer.data.json_text import parsed
from trainer.data.row_index import FileStamp, Place, RowIndex, Stat, indexed


class RowFile(Protocol):
    @property
    def stamp(self) -> FileStamp: ...
    def __len__(self) -> int: ...
    def row(self, i: int) -> tuple[object, Where]: ...


def open_rows(path: str, cache: Path | None) -> RowFile:
    """The rows of a file; where they stand is found once and kept in the folder `cache`.

    Raises DataError where the file has none or is broken, OSError where it cannot be read.
    """
    with open(path, "rb") as file:
        magic = file.read(4)
    if magic == b"PAR1":
        from trainer.data.parquet_files import ParquetFile  # pyarrow takes a while to import

        return ParquetFile(path, cache)
    return JsonFile(path, cache)


class JsonFile:
    """Only the places of the rows are kept: a row is read when it is asked for."""

    def __init__(self, path: str, cache: Path | None = None) -> None:
        self._path = path
        self._index: RowIndex = indexed(path, lambda file, keep: scan_json(path, file, keep), cache)

    @property
    def stamp(self) -> FileStamp:
        return FileStamp(self._path, len(self), self._index.digest)

    def __len__(self) -> int:
        return len(self._index.places)

    def row(self, i: int) -> tuple[object, Where]:
        place = Place(*self._index.places[i].tolist())
        where = Where(self._path, place.line, i + 1 if self._index.kind == ARRAY else None)
        # Opened for each row: a few microseconds, and thousands of files need no descriptors, nor does a fork share
        # any.
        descriptor = os.open(self._path, os.O_RDONLY)
        try:
            if Stat.of(descriptor) != self._index.stat:
                raise DataError(
                    f"{self._path}: changed since it was opened; leave data alone while it is used, and start again"
                )
            content = os.pread(descriptor, place.stop - place.start, place.start)
        finally:
            os.close(descriptor)
        # Without the line's end: an unfinished value would be reported a line too late.
        return parsed(content.rstrip(b"\r\n"), where), where
