"""Tensors and texts into files that are on the disk when the call returns, which says what they hold."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from io import FileIO
from itertools import cycle
from math import prod
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, mmap
from pathlib import Path

import torch
import xxhash

from trainer.checkpoint.beside import Beside
from trainer.checkpoint.manifest import FileRecord, flush, read_record
from trainer.checkpoint.read_back import check_back
from trainer.watchdog import beat

Entry = tuple[torch.dtype, Sequence[int]]
"""A tensor's dtype and shape."""
_DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16"}
_PIECE = 1 << 24
"""Bytes written at a time."""
_ALIGNMENT = 8


@dataclass(frozen=True)
class Joined:
    """A tensor on the CPU, in parts and in any precision."""

    parts: Sequence[torch.Tensor]
    """One below the other, each [rows, …]; or of the same rows beside each other, each [rows, columns]."""
    beside: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Raises ValueError where the parts do not fit each other."""
        first, *others = (tuple(part.shape) for part in self.parts)
        along = 1 if self.beside else 0
        for other in others:
            if other[:along] + other[along + 1 :] != first[:along] + first[along + 1 :]:
                raise ValueError(f"parts of {first} and {other} do not make one tensor")
        if not others:
            return first
        length = first[along] + sum(other[along] for other in others)
        return (*first[:along], length, *first[along + 1 :])


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
            except OSError as error:
                # Which would be taken for a disk's, while others wait in a gather.
                said = f"no memory for a tensor of {tuple(shape)} {dtype}: {error.strerror}"
                raise MemoryError(said) from error
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
                held = [part.detach() for part in parts if part.numel()]
                # One without numbers counts too: what comes after it is asked for when it is written.
                yield from _in_pieces(held, dtype, rooms) if held else (memoryview(b""),)

    return write_pieces(file, pieces(), total)


def _in_pieces(
    parts: Sequence[torch.Tensor], dtype: torch.dtype, rooms: Iterator[Room]
) -> Iterator[memoryview]:
    """What stands beside each other, row by row, in `dtype`. A room is taken for each piece that has to be made."""
    if len(parts) == 1 and parts[0].dtype is dtype and parts[0].is_contiguous():
        whole = _bytes(parts[0])
        yield from (whole[start : start + _PIECE] for start in range(0, len(whole), _PIECE))
        return
    held = [part.reshape(len(part) if part.dim() else 1, -1) for part in parts]
    widths = [part.shape[1] for part in held]
    some = max(1, _PIECE // (sum(widths) * dtype.itemsize))
    for start in range(0, len(held[0]), some):
        rows = [part[start : start + some] for part in held]
        piece = next(rooms).take((len(rows[0]), sum(widths)), dtype)
        for part, own in zip(rows, piece.split(widths, dim=1), strict=True):
            own.copy_(part)
        yield _bytes(piece)


def _bytes(tensor: torch.Tensor) -> memoryview:
    return tensor.view(-1).view(torch.uint8).numpy().data


def write_text(file: Path, text: str) -> FileRecord:
    """Write a text as UTF-8 and read it back. Raises what `write_pieces` and `check_back` raise."""
    content = text.encode()
    record = write_pieces(file, iter([memoryview(content)]), len(content))
    check_back(file, record)
    return record


def write_pieces(file: Path, pieces: Iterator[memoryview], total: int) -> FileRecord:
    """Write `total` bytes and bring them to the disk. A piece is done with when the next but one is asked for.

    Raises OSError, with the file and how far it came, where the disk takes no more, and ValueError where there are more
    pieces or fewer.
    """
    digest, written = xxhash.xxh3_128(), 0

    def put(out: FileIO, piece: memoryview) -> None:
        nonlocal written
        while piece:
            count = out.write(piece)
            _begin_flush(out.fileno(), written, count)
            piece, written = piece[count:], written + count

    try:
        with _opened(file) as (out, beside):
            # A piece is written while the next is put together and hashed.
            under_way: Future[None] | None = None
            for piece in pieces:
                digest.update(piece)
                if under_way:
                    under_way.result()
                under_way = beside.submit(partial(put, out, piece))
                beat()
            if under_way:
                under_way.result()
            os.fsync(out.fileno())
    except OSError as error:
        said = f"{file}: {written:,} of {total:,} bytes were written, then: {error.strerror}"
        raise OSError(error.errno, said) from error
    if written != total:
        raise ValueError(f"{file}: {written:,} bytes were given, not {total:,}")
    return FileRecord(total, digest.hexdigest())


@contextmanager
def _opened(file: Path) -> Iterator[tuple[FileIO, Beside]]:
    """A new file, and the thread that writes and closes it: where something else fails, nobody waits for a write that
    may hang."""
    out, beside = open(file, "wb", buffering=0), Beside()  # noqa: SIM115
    at_rest = False
    try:
        yield out, beside
        at_rest = True
    except OSError:
        at_rest = True
        raise
    finally:
        closed = beside.submit(out.close)
        beside.close()
        if at_rest:
            closed.result()


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
