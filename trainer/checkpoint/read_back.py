"""What was written is what the system gives back."""

from __future__ import annotations

from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Self

from trainer.checkpoint.beside import Beside
from trainer.checkpoint.manifest import FileRecord, Records, read_record


def check_back(file: Path, record: FileRecord) -> None:
    """Raises OSError, with the file, where it cannot be read or holds something else.

    The system gives it from memory as a rule. Reading the disk instead would double a save's time, and on a file server
    its load; `verify-checkpoint` and each resume read the disk, as far as the system can be asked to.
    """
    if read_record(file, forget=False) != record:
        raise OSError(f"{file}: reads back other bytes than were written; the system or its memory is faulty")


class ReadBack:
    """Reads files back while the next are written; a context, after which no other is begun."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._records: Records = {}
        self._read: list[Future[None]] = []
        self._beside = Beside()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for read in self._read:
            read.cancel()
        self._beside.close()

    def add(self, records: Records) -> None:
        """Files of the folder that are written, by their names in it."""
        for name, record in records.items():
            self._read.append(self._beside.submit(partial(check_back, self._folder / name, record)))
        self._records |= records

    def settle(self) -> Records:
        """All that were added, once they are read. Raises what `check_back` raises."""
        for read in self._read:
            read.result()
        return self._records
