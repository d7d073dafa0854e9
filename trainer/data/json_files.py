"""The rows of one file of JSON, each with its place: an array, an object, or a value on each line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from tokenization.errors import DataError, Where
from trainer.data.indexer import Indexer
from trainer.data.json_places import Place, element_places, line_places, object_place
from trainer.data.json_values import parse
from trainer.data.row_index import FileStamp, open_index

_BOM = b"\xef\xbb\xbf"


class JsonFile:
    """One file's rows, of which only the places are kept: a row is read when it is asked for.

    It is an array where its first character is `[`; one row where it is an object that takes several lines; else
    a row stands on each line that is not blank.
    """

    def __init__(self, path: str, cache: Path | None = None) -> None:
        """Finds the rows, unless `cache` knows them. Raises DataError without any, or for a broken array; OSError."""
        self._path = path
        with open(path, "rb") as file:
            self._start = len(_BOM) if file.read(len(_BOM)) == _BOM else 0
            file.seek(self._start)
            while (first := file.read(1)).isspace():
                pass
            self._text = file.tell() - len(first)
        self._is_array = first == b"["
        self._index = open_index(path, cache, self._scan)

    def __len__(self) -> int:
        return len(self._index)

    @property
    def stamp(self) -> FileStamp:
        return self._index.stamp

    def row(self, i: int) -> tuple[object, Where]:
        """Row `i` (0-based) as JSON, and where it stands. Raises DataError with the line."""
        data, line = self._index.read(i)
        where = Where(self._path, line, i + 1 if self._is_array else None)
        return parse(data.rstrip(b"\r"), where), where

    def _scan(self, indexer: Indexer) -> None:
        if self._is_array:
            found = element_places(self._path, indexer.pieces(), self._start)
        elif place := self._object(indexer):
            found = [np.array([place])]
        else:
            found = line_places(indexer.pieces(), self._start)
        for places in found:
            indexer.add(places)

    def _object(self, indexer: Indexer) -> Place | None:
        """The one object over several lines that the file is; None where its lines are rows, be the first broken."""
        with open(self._path, "rb") as file:
            file.seek(self._text)
            first = file.readline()
            second = next((line.lstrip() for line in file if not line.isspace()), b"")
        if not (second and first.startswith(b"{") and _unfinished(first)):
            return None
        try:
            return object_place(self._path, indexer.pieces(), self._start)
        except DataError:
            if second.startswith(b"{"):
                return None
            raise


def _unfinished(line: bytes) -> bool:
    """Would more text make it JSON?"""
    try:
        json.loads(line)
    except json.JSONDecodeError as error:
        return error.pos >= len(error.doc.rstrip())
    except (ValueError, RecursionError):
        return False
    return False
