"""What was written is what the system gives back."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Self

from trainer.checkpoint.manifest import FileRecord, Records, read_record


def check_back(file: Path, record: FileRecord) -> None:
    """Raises OSError, with the file, where it cannot be read or holds something else.

    The system gives it from memory as a rule. Reading the disk instead would double a save's time, and on a file server
    its load; `verify-checkpoint` and each resume read the disk, as far as the system can be asked to.
    """
    if read_record(file, forget=False) != record:
        raise OSError(f"{file}: reads back other bytes than were written; the disk or its cache is faulty")


class ReadBack:
    """Reads files back while the next are written; a context, after which nothing is read any more."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._records: Records = {}
        self._read: list[Future[None]] = []
        self._reader = ThreadPoolExecutor(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.shutdown(cancel_futures=True)

    def add(self, records: Records) -> None:
        """Files of the folder that are written, by their names in it."""
        for name, record in records.items():
            self._read.append(self._reader.submit(check_back, self._folder / name, record))
        self._records |= records

    def settle(self) -> Records:
        """All that were added, once they are read. Raises what `check_back` raises."""
        for read in self._read:
            read.result()
        return self._records
