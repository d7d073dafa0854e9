"""What a checkpoint must hold: `manifest.json` has every other file of the folder with its size and SHA-256,
and the SHA-256 of that itself.

No torch here: it is read before any rank starts.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from trainer.watchdog import beat

MANIFEST = "manifest.json"
_FORMAT = 1
_PIECE = 1 << 24
"""Bytes read at a time."""


class DamagedError(ValueError):
    """A checkpoint that is not what was written: one line with the file and what is wrong with it."""


@dataclass(frozen=True)
class FileRecord:
    """What a file must hold."""

    size: int
    sha256: str


Records = dict[str, FileRecord]
"""By the file's path in the folder, with /."""


def read_record(file: Path) -> FileRecord:
    """What a file holds, from the disk where the system can be asked to forget it. Raises OSError with the file."""
    digest, size = hashlib.sha256(), 0
    buffer, other = memoryview(bytearray(_PIECE)), memoryview(bytearray(_PIECE))
    # A piece is hashed while the next is read.
    with ThreadPoolExecutor(1) as beside, naming(file), open(file, "rb", buffering=0) as source:
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(source.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        hashed: Future[None] | None = None
        while count := source.readinto(buffer):
            if hashed:
                hashed.result()
            hashed = beside.submit(digest.update, buffer[:count])
            size += count
            beat()
            buffer, other = other, buffer
    return FileRecord(size, digest.hexdigest())


def flush(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk. Raises OSError with the path."""
    with naming(path):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """An OSError from within names the path: calls that are given a descriptor do not know it."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def manifest_text(step: int, records: Mapping[str, FileRecord]) -> str:
    files = {name: asdict(record) for name, record in sorted(records.items())}
    values = {"format": _FORMAT, "step": step, "files": files}
    return json.dumps(values | {"sha256": _digest(values)}, indent=1) + "\n"


def read_manifest(folder: Path) -> Records:
    """Raises DamagedError where there is none, or none that can be read."""
    file = folder / MANIFEST
    try:
        values = json.loads(file.read_bytes())
        if values["format"] != _FORMAT:
            raise DamagedError(f"{file}: format {values['format']!r}, this version reads {_FORMAT}")
        if values.pop("sha256") != _digest(values):
            raise DamagedError(f"{file}: is not what was written")
        return {name: FileRecord(int(v["size"]), str(v["sha256"])) for name, v in values["files"].items()}
    except FileNotFoundError:
        raise DamagedError(
            f"{file}: missing, so it is no whole checkpoint (to begin with its weights set model.path to it)"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, DamagedError):
            raise
        raise DamagedError(f"{file}: cannot be read ({type(error).__name__}: {error})") from None


def _digest(values: object) -> str:
    """Of the values themselves, however they are laid out."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def check_sizes(folder: Path, records: Records) -> None:
    """All files are there, as long as they must be: a moment, however large they are. Raises DamagedError."""
    for name, record in records.items():
        try:
            size = (folder / name).stat().st_size
        except FileNotFoundError:
            raise DamagedError(f"{folder / name}: missing, {MANIFEST} lists it") from None
        except OSError as error:
            raise DamagedError(f"{folder / name}: {error.strerror}") from None
        if size != record.size:
            raise DamagedError(f"{folder / name}: {size:,} bytes, {record.size:,} were written")


def check_files(folder: Path, records: Records, names: Iterable[str]) -> None:
    """Some of the files hold, byte by byte, what was written; each is read whole. Raises DamagedError."""
    for name in names:
        try:
            found = read_record(folder / name)
        except OSError as error:
            raise DamagedError(f"{folder / name}: {error.strerror}") from None
        if found != records[name]:
            raise DamagedError(
                f"{folder / name}: holds other bytes than were written (SHA-256 {found.sha256[:12]}…, "
                f"{records[name].sha256[:12]}… in {MANIFEST})"
            )
