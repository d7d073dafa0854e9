"""What the rows of a source became, kept in files: for later passes, for restarts, and for a host's other processes.

A store is an index of fixed records, one a row, and data files that only grow, one a writing process. Whoever makes a
sample appends it to its own file and then enters it in the index. There are no locks: a record that is read while
it is written, that two wrote at once, that a crash or a full disk left half there or a fault changed fails its checksum
and counts as missing, and then the row is tokenised again. So a store can be lost, shared or damaged and never
changes what is trained on.

Files are read and written by place (pread, pwrite), not mapped: mapped pages would count as this process's memory, and
grow it with the data.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import zlib
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tokenization.length import Fitted, LengthCounts
from tokenization.sample import TokenizedSample

_RECORD = struct.Struct("<IIQII")
"""Data file (0: missing), bytes, place, checksum of the content, and one of all these."""
_HEAD = struct.Struct("<6I")  # LengthCounts, samples
_PART = struct.Struct("<2I")  # bytes of a sample's id, tokens
_WHOLE, _KEPT = [1, 0, 0, 0, 0], LengthCounts(kept=1)
"""What most rows count for."""
BAD = 0xFFFFFFFF
"""In place of a data file: the row has a fault, which whoever needs it is to meet himself."""


def store_folder(cache: Path, identity: Sequence[object]) -> Path:
    """Where the samples lie that `identity` determines. Hosts keep apart: over a network file system one does not see
    at once what another writes."""
    digest = blake2b(repr(identity).encode(), digest_size=12).hexdigest()
    return cache / "samples" / f"{digest}-{socket.gethostname()}"


class SampleStore:
    """The samples of one source's rows. Usable after a fork, by parent and child."""

    def __init__(self, folder: Path, source: str, *, writes: bool = True) -> None:
        """`source` is the name its samples get. Raises OSError where the folder cannot be made or written to."""
        self._folder = folder
        self._source = source
        self._data: dict[int, int] = {}
        """Data file -> its descriptor."""
        self._index = -1
        folder.mkdir(parents=True, exist_ok=True)
        self._index = os.open(folder / "index", os.O_RDWR | os.O_CREAT, 0o644)
        self.writes = writes
        """False too once the disk has refused."""
        self._own = 0
        self._end = 0
        self._pid = 0

    def __del__(self) -> None:
        for descriptor in (self._index, *self._data.values()):
            if descriptor >= 0:
                os.close(descriptor)

    def has(self, row: int) -> bool:
        """Whether the row was entered, bad rows included; not whether it can be read."""
        return self._record(row)[0] != 0

    def get(self, row: int) -> Fitted | None:
        """What the row became, None where that is not known, is damaged, or is a fault."""
        record = self._record(row)
        number, length, place, checksum, _ = record
        if number in (0, BAD) or record != _checked(row, number, length, place, checksum):
            return None
        try:
            if number not in self._data:
                self._data[number] = os.open(self._path(number), os.O_RDONLY)
            content = os.pread(self._data[number], length, place)
        except OSError:
            return None
        if len(content) != length or zlib.crc32(content) != checksum:
            return None
        return _unpacked(content, self._source)

    def put(self, row: int, fitted: Fitted) -> None:
        """Keep what the row became. A disk that does not take it ends writing, not the run."""
        if not self.writes:
            return
        content = _packed(fitted)
        try:
            file = self._own_file()
            place, self._end = self._end, self._end + len(content)
            _write(self._data[file], content, place)
            self._enter(row, file, len(content), place, zlib.crc32(content))
        except OSError:
            self.writes = False

    def put_bad(self, row: int) -> None:
        if self.writes:
            with contextlib.suppress(OSError):
                self._enter(row, BAD, 0, 0, 0)

    def _record(self, row: int) -> tuple[int, ...]:
        raw = os.pread(self._index, _RECORD.size, row * _RECORD.size)
        return _RECORD.unpack(raw) if len(raw) == _RECORD.size else (0,) * 5

    def _enter(self, row: int, number: int, length: int, place: int, checksum: int) -> None:
        record = _checked(row, number, length, place, checksum)
        _write(self._index, _RECORD.pack(*record), row * _RECORD.size)

    def _own_file(self) -> int:
        """This process's data file; a forked child begins one of its own."""
        if self._pid != os.getpid():
            number = 1 + max((int(file.stem) for file in self._folder.glob("*.bin")), default=0)
            while True:
                try:
                    descriptor = os.open(self._path(number), os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
                    break
                except FileExistsError:
                    number += 1
            self._data[number] = descriptor
            self._own, self._end, self._pid = number, 0, os.getpid()
        return self._own

    def _path(self, number: int) -> Path:
        return self._folder / f"{number}.bin"


def _checked(row: int, number: int, length: int, place: int, checksum: int) -> tuple[int, ...]:
    """A record with its own checksum, which tells it from another row's."""
    fields = _RECORD.pack(number, length, place, checksum, 0)
    return number, length, place, checksum, zlib.crc32(row.to_bytes(8, "little") + fields)


def _write(descriptor: int, content: bytes, place: int) -> None:
    while content:
        written = os.pwrite(descriptor, content, place)
        content, place = content[written:], place + written


def _packed(fitted: Fitted) -> bytes:
    ids = [sample.id.encode() for sample in fitted.samples]
    c = fitted.counts
    counts = (c.kept, c.truncated, c.dropped_long, c.no_targets, c.targets_lost)
    pieces = [_HEAD.pack(*counts, len(ids))]
    pieces += [_PART.pack(len(id), len(sample)) for id, sample in zip(ids, fitted.samples, strict=True)]
    pieces += ids
    pieces += [sample.tokens.astype("<i4", copy=False).tobytes() for sample in fitted.samples]
    pieces += [array.tobytes() for sample in fitted.samples for array in (sample.trained, sample.kinds)]
    return b"".join(pieces)


def _unpacked(content: bytes, source: str) -> Fitted:
    *counts, parts = _HEAD.unpack_from(content)
    sizes = [_PART.unpack_from(content, _HEAD.size + _PART.size * part) for part in range(parts)]
    at = _HEAD.size + _PART.size * parts
    ids: list[str] = []
    for size, _ in sizes:
        ids.append(content[at : at + size].decode())
        at += size
    tokens: list[NDArray[np.int32]] = []
    for _, count in sizes:
        tokens.append(np.frombuffer(content, "<i4", count, at))
        at += 4 * count
    samples: list[TokenizedSample] = []
    for id, ours in zip(ids, tokens, strict=True):
        trained = np.frombuffer(content, np.bool_, len(ours), at)
        kinds = np.frombuffer(content, np.uint8, len(ours), at + len(ours))
        samples.append(TokenizedSample(source, id, ours, trained, kinds))
        at += 2 * len(ours)
    return Fitted(tuple(samples), _KEPT if counts == _WHOLE else LengthCounts(*counts))
