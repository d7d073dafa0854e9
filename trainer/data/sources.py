"""Rows out of files, by index, each with its place: JSON arrays, JSONL, single objects, Parquet, here or on the Hub.

Values of JSON are what `json` reads, untouched: no table, no inferred columns, so a null or a missing key stays what
it was. Nothing here knows what a conversation is.
"""

from __future__ import annotations

import os
import resource
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Protocol

from configs.data_paths import hub_data_set, local_files
from configs.schema import SourceConfig
from tokenization.errors import DataError, Where
from trainer.data.foreign_files import HEAD, refuse_foreign
from trainer.data.hub import fetch
from trainer.data.json_files import JsonFile
from trainer.data.notices import tell_once
from trainer.data.parquet_files import MAGIC, ParquetFile
from trainer.data.row_index import FileStamp


class DataFile(Protocol):
    """The rows of one file."""

    @property
    def stamp(self) -> FileStamp: ...
    def __len__(self) -> int: ...
    def row(self, i: int) -> tuple[object, Where]: ...


class Source:
    """The rows of all files of one source, in file order (sorted by path), then in the order of each file."""

    def __init__(self, name: str, role: str, format: str, files: Sequence[DataFile]) -> None:
        self.name = name
        self.role = role
        self.format = format
        self.files = tuple(file.stamp for file in files)
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


def open_source(config: SourceConfig, cache: Path | None = None) -> Source:
    """Finds the files of a source and their rows; a data set of the Hub is fetched first.

    cache: a folder, made when needed, where the places of rows are kept from one opening to the next

    Of a file only the places of its rows are kept, and those on the disk; a row is read when it is asked for. Raises
    DataError where no file matches, a file is empty, unreadable or of a kind that is not read, an array is no JSON, a
    data set cannot be fetched.
    """
    paths = _paths(config)
    _allow_open()
    try:
        files = [_open(path, cache) for path in paths]
    except OSError as error:
        raise DataError(f"source {config.name!r}: {error}") from error
    return Source(config.name, config.role, config.format, files)


def _open(path: str, cache: Path | None) -> DataFile:
    with open(path, "rb") as file:
        head = file.read(HEAD)
    if head.startswith(MAGIC):
        return ParquetFile(path, cache)
    refuse_foreign(path, head)
    return JsonFile(path, cache)


def _paths(config: SourceConfig) -> tuple[str, ...]:
    """The files of a source. What is here goes before what the Hub has."""
    found = local_files(config.path)
    data_set = None if Path(config.path).exists() or found.files else hub_data_set(config.path)
    if data_set:
        found = fetch(data_set, config.name)
    if found.held_out:
        tell_once(_held_out_notice(config, found.held_out))
    if found.files:
        return found.files
    raise DataError(
        f"source {config.name!r}: no file matches path {config.path!r} "
        + ("in the data set" if data_set else f"(read from folder {os.getcwd()})")
        + "; correct data.sources[…].path"
    )


def _held_out_notice(config: SourceConfig, files: tuple[str, ...]) -> str:
    names = ", ".join(files[:3]) + (", …" if len(files) > 3 else "")
    return (
        f"source {config.name!r}: {len(files)} file(s) of {config.path} left out, whose names say test or validation: "
        f"{names}; name them with a glob to train on them"
    )


def _allow_open() -> None:
    """Each file of data keeps descriptors. How many a process may have is often set low; it may raise that itself."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
