"""The rows of a Parquet file as JSON: written out once as lines, because a table is slow to read row by row."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from io import FileIO
from math import isfinite
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from tqdm import tqdm

from tokenization.errors import DataError, Where
from trainer.data.indexer import Indexer
from trainer.data.json_values import parse
from trainer.data.row_index import FileStamp, open_index

MAGIC = b"PAR1"
"""The first bytes of a file that is one."""
_ROWS = 256
"""Taken out of a row group at a time; a conversation may be long."""


class ParquetFile:
    """One table's rows. A row is an object with the columns that have a value in it."""

    def __init__(self, path: str, cache: Path | None = None) -> None:
        """Writes the rows out, unless `cache` has them. Raises DataError where they are no JSON or broken; OSError."""
        self._path = path
        self._index = open_index(path, cache, self._scan)

    def __len__(self) -> int:
        return len(self._index)

    @property
    def stamp(self) -> FileStamp:
        """With the digest of the Parquet file itself."""
        return self._index.stamp

    def row(self, i: int) -> tuple[object, Where]:
        """Row `i` (0-based) as JSON, and where it stands."""
        data, number = self._index.read(i)
        where = Where(self._path, None, number)
        row = parse(data, where)
        if isinstance(row, str):
            raise DataError(row, where)
        return row, where

    def _scan(self, indexer: Indexer) -> None:
        for _ in indexer.pieces():  # for the digest
            pass
        at, number = 0, 1
        for rows in _batches(self._path, indexer.file):
            ends = at + np.cumsum([len(row) for row in rows])
            begins = np.concatenate(([at], ends[:-1]))
            indexer.make(b"".join(rows))
            numbers = np.arange(number, number + len(rows))
            indexer.add(np.stack([begins, ends - 1, numbers], axis=1))  # without the line feeds
            at, number = int(ends[-1]), number + len(rows)


def _batches(path: str, table: FileIO) -> Iterator[list[bytes]]:
    """The rows as lines of JSON, some at a time: of the table only a part of one row group is held."""
    # Takes half a second to import, and few runs need it.
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(table) as file, _bar(file.metadata.num_rows, path) as bar:
            names = file.schema_arrow.names
            if twice := next((name for name in names if names.count(name) > 1), None):
                raise DataError(f"{path}: two columns are named {twice[:40]!r}; rename one")
            readers = [_reader(field.type) for field in file.schema_arrow]
            for batch in file.iter_batches(_ROWS):
                columns = [column.to_pylist() for column in batch.columns]
                rows = [_line(names, readers, values) for values in zip(*columns, strict=True)]
                if rows:
                    yield rows
                bar.update(len(rows))
    except DataError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise DataError(f"{path}: no Parquet that can be read ({reason}); fetch or write it anew") from None


def _line(names: list[str], readers: list[_Reader], values: tuple[Any, ...]) -> bytes:
    row: dict[str, object] = {}
    for name, reader, value in zip(names, readers, values, strict=True):
        try:
            if value is not None:
                row[name] = reader(value)
        except DataError as error:
            # A row's fault is the row's: a string, which no row is, stands for it.
            return json.dumps(f"column {name!r}: {error}", ensure_ascii=False).encode() + b"\n"
    return json.dumps(row, ensure_ascii=False).encode() + b"\n"


_Reader = Callable[[Any], object]
"""Makes JSON of a value that is not null. Raises DataError for one that JSON lacks."""


def _reader(kind: Any) -> _Reader:
    """How the values of an Arrow type are read, of which pyarrow makes Python's."""
    from pyarrow import types

    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return _same
    if types.is_integer(kind) or types.is_boolean(kind) or types.is_null(kind):
        return _same
    if types.is_floating(kind):
        return _number
    if types.is_dictionary(kind):
        return _reader(kind.value_type)
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        item = _reader(kind.value_type)
        return lambda values: [None if value is None else item(value) for value in values]
    if types.is_struct(kind):
        return partial(_object, {field.name: _reader(field.type) for field in kind})
    if types.is_map(kind) and types.is_string(kind.key_type):
        return partial(_mapping, _reader(kind.item_type))
    if getattr(kind, "extension_name", None) == "arrow.json":  # as the library datasets writes its Json
        return lambda text: parse(text.encode(), Where("JSON in it", 1))
    return partial(_refuse, str(kind))


def _same(value: object) -> object:
    return value


def _number(value: float) -> float:
    if not isfinite(value):
        raise DataError(f"{value} is not part of JSON; make it null, or drop the column")
    return float(value)


def _object(readers: dict[str, _Reader], value: dict[str, Any]) -> dict[str, object]:
    """An Arrow struct has all keys that any row has, so its null stands for a key that this row does not have.

    Kept, it would be learned: a call's arguments would list those of every other tool (axolotl, issue 2909).
    """
    return {name: readers[name](inner) for name, inner in value.items() if inner is not None}


def _mapping(reader: _Reader, pairs: list[tuple[str, Any]]) -> dict[str, object]:
    """A map has the keys of its row alone, so here a null is a value."""
    value = {key: None if inner is None else reader(inner) for key, inner in pairs}
    if len(value) < len(pairs):
        raise DataError("a map has a key twice; keep one of the two")
    return value


def _refuse(kind: str, value: object) -> NoReturn:
    raise DataError(f"JSON has no {kind}; cast it to a string, or drop the column")


def _bar(rows: int, path: str) -> tqdm[Any]:
    return tqdm(total=rows, desc=Path(path).name, unit=" rows", leave=False, disable=None, delay=1)
