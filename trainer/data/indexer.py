"""One pass over a data file: its bytes are hashed while somebody looks through them, what is found goes to the disk.

Memory stays that of two pieces, however large the file.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, nullcontext
from io import FileIO
from itertools import cycle
from pathlib import Path
from typing import Any, BinaryIO, Self

from tqdm import tqdm

from trainer.data.json_places import Places

PIECE = 1 << 20
"""Bytes of a file that are held at a time, twice."""
_LARGE = 256 << 20
"""Bytes from which on a bar is shown: less is read in a moment."""
_DIGITS = 32


class Indexer(AbstractContextManager["Indexer"]):
    """What a scan of a file is given: the file, and where to put what it finds. To be used in a `with`.

    The thread that hashes ends with that block, not with the iterator: an iterator that a fault leaves behind ends
    whenever memory is collected, and if that is while Python starts a thread, waiting there for one never returns.
    """

    def __init__(self, file: FileIO, name: str, folder: Path, stem: str) -> None:
        self.file = file
        self._name = name
        self._folder = folder
        self._names = {kind: f"{stem}.{kind}" for kind in ("places", "rows")}
        self._open: dict[str, BinaryIO] = {}
        self._rows = 0
        self._digest = ""
        self._checksum = self._made_checksum = 0
        self._until_exit = ExitStack()
        self._thread = self._until_exit.enter_context(ThreadPoolExecutor(1))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._until_exit.close()

    def pieces(self) -> Iterator[memoryview]:
        """The file from its beginning, hashed by the way; a piece is good until the next is asked for."""
        size = os.fstat(self.file.fileno()).st_size
        digest = hashlib.sha256()  # as fast as any of hashlib's where the processor has instructions for it
        at = 0
        hashing: Future[None] | None = None
        # While one buffer is hashed and looked through the other is filled.
        buffers = cycle(bytearray(max(1, min(PIECE, size))) for _ in range(2))
        bar = self._until_exit.enter_context(_bar(size, self._name))
        for buffer in buffers:
            count = os.preadv(self.file.fileno(), [buffer], at) if at < size else 0
            if hashing:
                hashing.result()
            if not count:
                break
            piece = memoryview(buffer)[:count]
            hashing = self._thread.submit(digest.update, piece)
            yield piece
            at += count
            if bar is not None:
                bar.update(count)
        self._digest = digest.hexdigest()[:_DIGITS]

    def add(self, places: Places) -> None:
        """The places of the next rows."""
        content = places.astype("<i8", copy=False).tobytes()
        self._rows += len(places)
        self._checksum = zlib.crc32(content, self._checksum)
        self._write("places", content)

    def make(self, rows: bytes) -> None:
        """More of a file that is to be read in place of the one scanned; the places are those in it."""
        self._made_checksum = zlib.crc32(rows, self._made_checksum)
        self._write("rows", rows)

    def finish(self) -> dict[str, Any]:
        """Brings all to the disk. The record of it, as JSON."""
        sizes = {}
        for kind, out in self._open.items():
            out.flush()
            os.fsync(out.fileno())
            sizes[kind] = out.tell()
        return {
            "rows": self._rows,
            "digest": self._digest,
            "places": self._names["places"],
            "places_checksum": self._checksum,
            "made": self._names["rows"] if "rows" in sizes else None,
            "made_size": sizes.get("rows"),
            "made_checksum": self._made_checksum,
        }

    def _write(self, kind: str, content: bytes) -> None:
        if kind not in self._open:
            out = open(self._folder / self._names[kind], "wb")  # noqa: SIM115 - closed with the thread
            self._open[kind] = self._until_exit.enter_context(out)
        self._open[kind].write(content)


def _bar(size: int, name: str) -> AbstractContextManager[tqdm[Any] | None]:
    """On a terminal alone: a log gets no bars."""
    if size <= _LARGE:
        return nullcontext()
    return tqdm(total=size, desc=name, unit="B", unit_scale=True, leave=False, disable=None, delay=1)
