"""Tensors and texts into files that are on the disk, and say what they hold, when the call returns."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from math import prod
from pathlib import Path

import torch

from trainer.checkpoint.manifest import FileRecord, flush, read_record
from trainer.watchdog import beat

Entry = tuple[torch.dtype, Sequence[int]]
"""A tensor's dtype and shape."""
_DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16"}
_PIECE = 1 << 24
"""Bytes written, or read back, at a time."""
_ALIGNMENT = 8


def write_tensors(file: Path, tensors: Mapping[str, torch.Tensor]) -> FileRecord:
    """Write CPU tensors as safetensors. Raises what `write_stream` raises."""
    entries = {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}
    return write_stream(file, entries, tensors.values())


def write_stream(file: Path, entries: Mapping[str, Entry], tensors: Iterable[torch.Tensor]) -> FileRecord:
    """Write CPU tensors, in the order of their entries, as safetensors: an eight-byte length, a JSON header of so many
    bytes, the numbers in order. Each is asked for when the one before is written.

    Not by the library's own writer, which wants all tensors at once, holds a second copy of them and does not say how
    far it came. Raises ValueError for another dtype than float32 and bfloat16 and for a tensor that is not as its
    entry says, and what `write_pieces` raises.
    """
    listed: dict[str, dict[str, object]] = {}
    at = 0
    for name, (dtype, shape) in entries.items():
        if dtype not in _DTYPES:
            raise ValueError(f"{name}: dtype {dtype}, can write float32 and bfloat16 only; cast it")
        end = at + prod(shape) * dtype.itemsize
        listed[name] = {"dtype": _DTYPES[dtype], "shape": list(shape), "data_offsets": [at, end]}
        at = end
    header = json.dumps({"__metadata__": {"format": "pt"}, **listed}, separators=(",", ":")).encode()
    header += b" " * (-len(header) % _ALIGNMENT)
    total = struct.calcsize("<Q") + len(header) + at

    def pieces() -> Iterator[memoryview]:
        yield memoryview(struct.pack("<Q", len(header)) + header)
        for (name, (dtype, shape)), tensor in zip(entries.items(), tensors, strict=True):
            if tensor.dtype != dtype or tuple(tensor.shape) != tuple(shape):
                raise ValueError(f"{name}: {tensor.dtype} {tuple(tensor.shape)}, not {dtype} {tuple(shape)}")
            whole = tensor.contiguous().view(-1).view(torch.uint8).numpy().data
            for start in range(0, len(whole), _PIECE):
                yield whole[start : start + _PIECE]

    return write_pieces(file, pieces(), total)


def write_text(file: Path, text: str) -> FileRecord:
    """Write a text as UTF-8. Raises what `write_pieces` raises."""
    content = text.encode()
    return write_pieces(file, iter([memoryview(content)]), len(content))


def write_pieces(file: Path, pieces: Iterator[memoryview], total: int) -> FileRecord:
    """Write `total` bytes, bring them to the disk, read them back.

    Raises OSError, with the file and how far it came, where the disk takes no more or gives back something else.
    """
    digest, written = hashlib.sha256(), 0
    try:
        # A piece is hashed while it is written, the last of them while they come to the disk.
        with ThreadPoolExecutor(1) as beside, open(file, "wb", buffering=0) as out:
            hashed: Future[None] | None = None
            for piece in pieces:
                before, hashed = hashed, beside.submit(digest.update, piece)
                left = piece
                while left:
                    count = out.write(left)
                    _begin_flush(out.fileno(), written, count)
                    left, written = left[count:], written + count
                if before:
                    before.result()
                beat()
            os.fsync(out.fileno())
    except OSError as error:
        said = f"{file}: {written:,} of {total:,} bytes were written, then: {error.strerror}"
        raise OSError(error.errno, said) from error
    record = FileRecord(total, digest.hexdigest())
    if read_record(file) != record:
        raise OSError(f"{file}: reads back other bytes than were written; the disk or its cache is faulty")
    return record


def _begin_flush(descriptor: int, start: int, count: int) -> None:
    """Have the disk take written bytes while the next are put together; the flush at the end only waits for the last.

    Linux answers this advice for bytes that are not on the disk yet by beginning to bring them there (mm/fadvise.c).
    """
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, start, count, os.POSIX_FADV_DONTNEED)


def record_of(file: Path) -> FileRecord:
    """Brings a file that something else wrote to the disk. Raises OSError with the file."""
    flush(file)
    return read_record(file)
