"""Where each row of a file stands, kept in a file: found once, at the disk's speed, then read from the cache.

A cache holds for each data file an entry `KEY.json`, which says of which state of the file it speaks, and the files it
names: `.places`, three int64 a row, and for tables `.rows`, the rows as lines of JSON. The entry is renamed into place
after they are on the disk, so it is complete or invisible; whatever does not fit together counts as missing, and the
file is read again. Without a cache the same files are made aside and have no name any more once they are open.

Files are read by place (pread), not mapped: mapped pages would count as this process's memory, and grow it with the
data. A descriptor read so has no position to share: parent and child may both use it after a fork.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from io import FileIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tokenization.errors import DataError
from trainer.data.indexer import PIECE, Indexer

VERSION = 2
"""Of what an entry holds; another is not read."""
_KEY_DIGITS = 32
_PLACE = struct.Struct("<3q")


@dataclass(frozen=True)
class FileStamp:
    """What tells a data file from another: its content, not where it lies."""

    path: str
    rows: int
    digest: str
    """Of its bytes: the first 32 hex digits of SHA-256."""


@dataclass(frozen=True)
class _State:
    """What the file system says of a file, and changes with its content."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int

    @classmethod
    def of(cls, file: FileIO) -> _State:
        found = os.fstat(file.fileno())
        return cls(found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)

    def same_content(self, other: _State) -> bool:
        """A new name or new rights change the time of the file's entry, but not what is in it."""
        return (self.size, self.mtime_ns) == (other.size, other.mtime_ns)


class RowIndex:
    """The rows of one file as bytes, by number. Usable after a fork, by parent and child."""

    def __init__(self, path: str, file: FileIO, folder: Path, record: dict[str, Any]) -> None:
        """Opens what a record names in a folder. Raises OSError, KeyError, TypeError or ValueError for a bad one."""
        self.stamp = FileStamp(path, int(record["rows"]), str(record["digest"]))
        self._places = _whole(folder / record["places"], self.stamp.rows * _PLACE.size)
        self._file = _whole(folder / record["made"], record["made_size"]) if record["made"] else file
        self._state = _State.of(self._file)
        last = self._place(len(self) - 1) if len(self) else (0, -1, 0)
        if not 0 <= last[0] <= last[1] <= self._state.size:
            raise ValueError(f"{record['places']}: places beyond the file")
        if _checksum(self._places) != record["places_checksum"]:
            raise ValueError(f"{record['places']}: damaged")
        if record["made"] and _checksum(self._file) != record["made_checksum"]:
            raise ValueError(f"{record['made']}: damaged")

    def __len__(self) -> int:
        return self.stamp.rows

    def read(self, i: int) -> tuple[bytes, int]:
        """The bytes of row `i` (0-based) and the 1-based line they begin on, in a table the number of the row.

        Raises DataError where the file was written to since it was indexed.
        """
        start, stop, line = self._place(i)
        data = os.pread(self._file.fileno(), stop - start, start)
        if len(data) != stop - start or not self._state.same_content(_State.of(self._file)):
            raise DataError(
                f"{self.stamp.path}: changed while it is in use; start again, and leave data alone during a run"
            )
        return data, line

    def _place(self, i: int) -> tuple[int, int, int]:
        return _PLACE.unpack(os.pread(self._places.fileno(), _PLACE.size, i * _PLACE.size))


Scan = Callable[[Indexer], None]
"""Goes through all pieces of a file and adds the places of its rows. Raises DataError."""


def open_index(path: str, cache: Path | None, scan: Scan) -> RowIndex:
    """The rows of a file, from the cache where it knows the file as it is now.

    A cache that cannot be written to is done without. Raises DataError for a file without rows, one that changes while
    it is scanned, and what `scan` raises; OSError for one that cannot be read.
    """
    file = FileIO(path)
    if cache is not None:
        try:
            return _cached(path, file, cache / "indexes", scan)
        except OSError:  # the cache's fault, or the file's own and then it comes up again
            pass
    with TemporaryDirectory(prefix="agenttune-") as folder:
        return RowIndex(path, file, Path(folder), _scanned(path, file, Path(folder), "index", scan))


def _cached(path: str, file: FileIO, folder: Path, scan: Scan) -> RowIndex:
    key = hashlib.sha256(os.fsencode(os.path.abspath(path))).hexdigest()[:_KEY_DIGITS]
    entry = folder / f"{key}.json"
    if index := _entry(path, file, entry):
        return index
    folder.mkdir(parents=True, exist_ok=True)
    with _lock(folder / f"{key}.lock"):
        if index := _entry(path, file, entry):  # somebody made it meanwhile
            return index
        stem = f"{key}-{secrets.token_hex(4)}"
        try:
            state = asdict(_State.of(file))
            record = _scanned(path, file, folder, stem, scan) | {"version": VERSION, "state": state}
            index = RowIndex(path, file, folder, record)
            aside = folder / f"{stem}.json"
            aside.write_text(json.dumps(record | {"path": os.path.abspath(path)}), encoding="utf-8")
            aside.replace(entry)
        except BaseException:
            _remove(folder.glob(f"{stem}.*"))
            raise
        # Of an earlier state, or of a process that died. Who has them open goes on reading them.
        _remove(old for old in folder.glob(f"{key}-*") if old.stem != stem)
        return index


def _entry(path: str, file: FileIO, entry: Path) -> RowIndex | None:
    """What the cache knows of the file as it is now."""
    try:
        record = json.loads(entry.read_bytes())
        if record["version"] == VERSION and record["state"] == asdict(_State.of(file)):
            return RowIndex(path, file, entry.parent, record)
    except (OSError, KeyError, TypeError, ValueError):
        pass
    return None


def _scanned(path: str, file: FileIO, folder: Path, stem: str, scan: Scan) -> dict[str, Any]:
    before = _State.of(file)
    with Indexer(file, Path(path).name, folder, stem) as indexer:
        scan(indexer)
        record = indexer.finish()
    if _State.of(file) != before:
        raise DataError(f"{path}: changed while it was read; start again when nothing writes to it any more")
    if not record["rows"]:
        raise DataError(f"{path}: file without any row; remove it or fill it")
    return record


def _whole(path: Path, size: int) -> FileIO:
    file = FileIO(path)
    if os.fstat(file.fileno()).st_size != size:
        raise ValueError(f"{path}: not of {size} bytes")
    return file


def _checksum(file: FileIO) -> int:
    """CRC-32 of a file; 24 bytes a row take 10 ms for a million rows."""
    checksum, at = 0, 0
    while piece := os.pread(file.fileno(), PIECE, at):
        checksum, at = zlib.crc32(piece, checksum), at + len(piece)
    return checksum


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Alone among processes, if the file system can; the system frees the lock of a process that dies."""
    with open(path, "ab") as file:
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _remove(files: Iterator[Path]) -> None:
    for file in list(files):
        with contextlib.suppress(OSError):
            file.unlink(missing_ok=True)
