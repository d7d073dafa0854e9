"""Tensors and texts into files that are on the disk, and say what they hold, when the call returns."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import cycle
from math import prod
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, mmap
from pathlib import Path

import torch
import xxhash

from trainer.checkpoint.manifest import FileRecord, flush, read_record
from trainer.checkpoint.read_back import check_back
from trainer.watchdog import beat

Entry = tuple[torch.dtype, Sequence[int]]
"""A tensor's dtype and shape."""
_DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16"}
_PIECE = 1 << 24
"""Bytes written, or read back, at a time."""
_ALIGNMENT = 8


@dataclass(frozen=True)
class Joined:
    """A tensor on the CPU, in parts and in any precision."""

    parts: Sequence[torch.Tensor]
    """One below the other, each [rows, …]; or of the same rows beside each other, each [rows, columns]."""
    beside: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        first = tuple(self.parts[0].shape)
        if len(self.parts) == 1:
            return first
        along = 1 if self.beside else 0
        return (*first[:along], sum(part.shape[along] for part in self.parts), *first[along + 1 :])


class Room:
    """Memory for one tensor after another: pages that the system gives anew cost more than what is put into them.

    It goes back to the system in the end. malloc keeps blocks of up to 32 MB for itself, which came to half a shard.
    """

    def __init__(self) -> None:
        self._memory = torch.empty(0, dtype=torch.uint8)

    def take(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """A tensor in place of the one before. Raises MemoryError."""
        size = prod(shape) * dtype.itemsize
        if size > len(self._memory):
            try:
                memory = mmap(-1, size, flags=MAP_PRIVATE | MAP_ANONYMOUS)
            except (
                OSError
            ) as error:  # which would be taken for a disk's, and others wait in a gather meanwhile
                raise MemoryError(
                    f"no memory for a tensor of {tuple(shape)} {dtype}: {error.strerror}"
                ) from error
            self._memory = torch.frombuffer(memory, dtype=torch.uint8)
        return self._memory[:size].view(dtype).view(shape)


def write_tensors(file: Path, tensors: Mapping[str, torch.Tensor]) -> FileRecord:
    """Write CPU tensors as safetensors. Raises what `write_stream` raises."""
    entries = {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}
    return write_stream(file, entries, (Joined([tensor]) for tensor in tensors.values()))


def write_stream(file: Path, entries: Mapping[str, Entry], tensors: Iterable[Joined]) -> FileRecord:
    """Write tensors, in the order of their entries and in their precision, as safetensors: an eight-byte length, a JSON
    header of so many bytes, the numbers in order.

    Each is asked for while the one before is written, and done with when the next but one is asked for. Not by the
    library's own writer, which wants all tensors at once, holds a second copy of them and does not say how far it came.
    Raises ValueError for another dtype than float32 and bfloat16 and for a tensor of another shape than its entry's,
    and what `write_pieces` raises.
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
        rooms = cycle((Room(), Room()))
        for (name, (dtype, shape)), tensor in zip(entries.items(), tensors, strict=True):
            if tensor.shape != tuple(shape):
                raise ValueError(f"{name}: {tensor.shape}, not {tuple(shape)}")
            for parts in [tensor.parts] if tensor.beside else [[part] for part in tensor.parts]:
                yield from _pieces([part for part in parts if part.numel()], dtype, rooms)

    return write_pieces(file, pieces(), total)


def _pieces(parts: Sequence[torch.Tensor], dtype: torch.dtype, rooms: Iterator[Room]) -> Iterator[memoryview]:
    """What stands beside each other, row by row, in `dtype`. A room is taken for each piece that has to be made."""
    if len(parts) == 1 and parts[0].dtype is dtype and parts[0].is_contiguous():
        whole = _bytes(parts[0])
        yield from (whole[start : start + _PIECE] for start in range(0, len(whole), _PIECE))
        return
    held = [part.reshape(len(part) if part.dim() else 1, -1) for part in parts]
    width = sum(part.shape[1] for part in held)
    some = max(1, _PIECE // (width * dtype.itemsize)) if held else 1
    for start in range(0, len(held[0]) if held else 0, some):
        rows = [part[start : start + some] for part in held]
        piece = next(rooms).take((len(rows[0]), width), dtype)
        for part, own in zip(rows, piece.split([part.shape[1] for part in rows], dim=1), strict=True):
            own.copy_(part)
        yield _bytes(piece)


def _bytes(tensor: torch.Tensor) -> memoryview:
    return tensor.detach().view(-1).view(torch.uint8).numpy().data


def write_text(file: Path, text: str) -> FileRecord:
    """Write a text as UTF-8 and read it back. Raises what `write_pieces` and `check_back` raise."""
    content = text.encode()
    record = write_pieces(file, iter([memoryview(content)]), len(content))
    check_back(file, record)
    return record


def write_pieces(file: Path, pieces: Iterator[memoryview], total: int) -> FileRecord:
    """Write `total` bytes and bring them to the disk. A piece is done with when the next but one is asked for.

    Raises OSError, with the file and how far it came, where the disk takes no more.
    """
    digest, written = xxhash.xxh3_128(), 0

    def put(piece: memoryview) -> None:
        nonlocal written
        while piece:
            count = out.write(piece)
            _begin_flush(out.fileno(), written, count)
            piece, written = piece[count:], written + count

    try:
        # A piece is written while the next is put together and hashed.
        with open(file, "wb", buffering=0) as out, ThreadPoolExecutor(1) as beside:
            under_way: Future[None] | None = None
            for piece in pieces:
                digest.update(piece)
                if under_way:
                    under_way.result()
                under_way = beside.submit(put, piece)
                beat()
            if under_way:
                under_way.result()
            os.fsync(out.fileno())
    except OSError as error:
        said = f"{file}: {written:,} of {total:,} bytes were written, then: {error.strerror}"
        raise OSError(error.errno, said) from error
    return FileRecord(total, digest.hexdigest())


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
