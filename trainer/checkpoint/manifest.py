"""What a checkpoint must hold: `manifest.json` has every other file of the folder with its size and digest, and the
digest of that itself.

The digest is XXH3 of 128 bits: no accident leaves it as it was, and it is as fast as memory, where SHA-256 takes longer
than most disks. It does not keep out whoever wants to deceive; neither would another one that lies beside the files.

No torch here: it is read before any rank starts.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import xxhash

from trainer.watchdog import beat

MANIFEST = "manifest.json"
_FORMAT = 2
_PIECE = 1 << 24
"""Bytes read at a time."""


class DamagedError(ValueError):
    """A checkpoint that is not what was written: one line with the file and what is wrong with it."""


@dataclass(frozen=True)
class FileRecord:
    """What a file must hold."""

    size: int
    xxh3: str
    """128 bits in hexadecimal, as `xxh128sum` prints them."""


Records = dict[str, FileRecord]
"""By the file's path in the folder, with /."""


def read_record(file: Path, *, forget: bool = True) -> FileRecord:
    """What a file holds, read from the disk where the system can be asked to `forget` what it has in memory of it.

    Raises OSError with the file.
    """
    digest, size = xxhash.xxh3_128(), 0
    buffer = memoryview(bytearray(_PIECE))
    with naming(file), open(file, "rb", buffering=0) as source:
        if forget and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(source.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        while count := source.readinto(buffer):
            digest.update(buffer[:count])
            size += count
            beat()
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
    return json.dumps(values | {"xxh3": _digest(values)}, indent=1) + "\n"


def read_manifest(folder: Path) -> Records:
    """Raises DamagedError where there is none, or none that can be read."""
    file = folder / MANIFEST
    try:
        values = json.loads(file.read_bytes())
        if values["format"] != _FORMAT:
            raise DamagedError(
                f"{file}: format {values['format']!r}, this version of agenttune reads {_FORMAT}; go on with "
                "the one that wrote it"
            )
        if values.pop("xxh3") != _digest(values):
            raise DamagedError(f"{file}: is not what was written")
        return {name: FileRecord(int(v["size"]), str(v["xxh3"])) for name, v in values["files"].items()}
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
    return xxhash.xxh3_128(json.dumps(values, sort_keys=True).encode()).hexdigest()


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
                f"{folder / name}: holds other bytes than were written (XXH3 {found.xxh3[:12]}…, "
                f"{records[name].xxh3[:12]}… in {MANIFEST})"
            )
