"""This job's weights as the files of a Hugging Face folder have them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from math import prod
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, mmap
from pathlib import Path

import torch
import torch.distributed as dist

from configs.shapes import ModelShape
from trainer.checkpoint.manifest import Records
from trainer.checkpoint.postponed import Postponed
from trainer.checkpoint.shards import Shard
from trainer.checkpoint.tensors import write_stream, write_text
from trainer.model.names import Piece, Table, row_offsets
from trainer.parallel.grid import Grid

INDEX = "model.safetensors.index.json"
Weights = Mapping[str, torch.Tensor]
"""This rank's slice of each of a shard's parameters, on the CPU, in any precision."""


def write_index(folder: Path, plan: Sequence[Shard], shape: ModelShape, item_bytes: int) -> Records:
    """Which tensor is in which file; nothing where there is one file. Raises OSError."""
    if len(plan) == 1:
        return {}
    index = {
        "metadata": {"total_size": shape.parameters() * item_bytes},
        "weight_map": {name: shard.file for shard in plan for name in shard.names},
    }
    return {INDEX: write_text(folder / INDEX, json.dumps(index, indent=2) + "\n")}


def write_shards(
    folder: Path,
    shards: Mapping[Shard, Weights],
    table: Table,
    dtype: torch.dtype,
    grid: Grid,
    failures: Postponed,
) -> Records:
    """Write shards, one at the most for each of the tensor ranks that hold their parameters: a collective of theirs."""
    own = [shard for shard in shards if shard.tensor_rank == grid.tensor_rank]
    tensors = _gathered(shards, table, dtype, grid)
    written: Records = {}
    for shard in own:
        shapes = {piece.name: piece.shape for name in shard.parameters for piece in table[name]}
        entries = {name: (dtype, size) for name, size in shapes.items()}
        with failures.attempt():
            written[shard.file] = write_stream(folder / shard.file, entries, tensors)
    for _ in tensors:  # those that the others write, and this rank's own where its file came to nothing
        pass
    return written


def _gathered(
    shards: Mapping[Shard, Weights], table: Table, dtype: torch.dtype, grid: Grid
) -> Iterator[torch.Tensor]:
    """The Hugging Face tensors, in `dtype`, of the shard that this tensor rank writes, each when it is asked for.

    A collective of the tensor ranks that hold the parameters: each must ask until there are no more. In rounds of a
    tensor of each shard, all of which are gathered before any is given away: so all ranks write at the same time.
    """
    for places in zip_longest(*(_pieces(shard, table, grid) for shard in shards)):
        own: torch.Tensor | None = None
        for (shard, weights), place in zip(shards.items(), places, strict=True):
            if place:
                name, piece, rows = place
                whole = gather_piece(weights[name].detach()[rows], piece, dtype, grid, shard.tensor_rank)
                own = own if whole is None else whole
        if own is not None:
            yield own


def _pieces(shard: Shard, table: Table, grid: Grid) -> Iterator[tuple[str, Piece, slice]]:
    """Parameter, tensor, and the tensor's rows in this rank's slice of the parameter."""
    for name in shard.parameters:
        for piece, first in zip(table[name], row_offsets(table[name], grid.layout.tensor), strict=True):
            yield name, piece, slice(first, first + piece.slice_shape(grid.layout.tensor)[0])


def gather_piece(
    local: torch.Tensor, piece: Piece, dtype: torch.dtype, grid: Grid, to: int
) -> torch.Tensor | None:
    """A Hugging Face tensor from its slices, in `dtype`, on tensor rank `to`; None on the others."""
    tensor = grid.layout.tensor
    if piece.split == "none" or tensor == 1:
        return local.to(dtype) if grid.tensor_rank == to else None
    own = scratch(local.shape, dtype).copy_(local)
    slices = [scratch(local.shape, dtype) for _ in range(tensor)] if grid.tensor_rank == to else None
    dist.gather(own, slices, group=grid.side_tensor_group, group_dst=to)
    if slices is None:
        return None
    whole = scratch(piece.shape, dtype)
    along = 1 if piece.split == "columns" else 0
    for rank, part in enumerate(slices):
        start, stop = piece.bounds(rank, tensor)
        whole.narrow(along, start, stop - start).copy_(part.narrow(along, 0, stop - start))
    return whole


def scratch(shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """A tensor whose memory goes back to the system with it. malloc keeps blocks of up to 32 MB for itself, which came
    to half a shard."""
    try:
        memory = mmap(-1, max(1, prod(shape)) * dtype.itemsize, flags=MAP_PRIVATE | MAP_ANONYMOUS)
    except OSError as error:  # which would be taken for a disk's, and others wait in a gather meanwhile
        raise MemoryError(f"no memory for a tensor of {tuple(shape)} {dtype}: {error.strerror}") from error
    return torch.frombuffer(memory, dtype=dtype)[: prod(shape)].view(shape)
