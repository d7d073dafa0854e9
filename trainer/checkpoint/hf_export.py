"""This job's weights as the files of a Hugging Face folder have them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle, zip_longest
from pathlib import Path

import torch
import torch.distributed as dist

from configs.shapes import ModelShape
from trainer.checkpoint.manifest import Records
from trainer.checkpoint.postponed import Postponed
from trainer.checkpoint.shards import Shard
from trainer.checkpoint.tensors import Joined, Room, write_stream, write_text
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
    tensors = gathered_tensors(shards, table, dtype, grid)
    written: Records = {}
    for shard in own:
        shapes = {piece.name: piece.shape for name in shard.parameters for piece in table[name]}
        entries = {name: (dtype, size) for name, size in shapes.items()}
        with failures.attempt():
            failures.look()
            written[shard.file] = write_stream(folder / shard.file, entries, tensors)
    for _ in tensors:  # those that the others write, and this rank's own where its file came to nothing
        pass
    return written


def gathered_tensors(
    shards: Mapping[Shard, Weights], table: Table, dtype: torch.dtype, grid: Grid
) -> Iterator[Joined]:
    """The Hugging Face tensors of the shard that this tensor rank writes, each when it is asked for, and done with when
    the next but one is.

    A collective of the tensor ranks that hold the parameters: each must ask until there are no more. In rounds of a
    tensor of each shard, all of which are gathered before any is given away: so all ranks write at the same time.
    """
    rooms = Rooms()
    for places in zip_longest(*(_pieces(shard, table, grid) for shard in shards)):
        own: Joined | None = None
        for (shard, weights), place in zip(shards.items(), places, strict=True):
            if place:
                name, piece, rows = place
                local, to = weights[name].detach()[rows], shard.tensor_rank
                own = gather_piece(local, piece, dtype, grid, to, rooms) or own
        if own is not None:
            yield own


def _pieces(shard: Shard, table: Table, grid: Grid) -> Iterator[tuple[str, Piece, slice]]:
    """Parameter, tensor, and the tensor's rows in this rank's slice of the parameter."""
    for name in shard.parameters:
        for piece, first in zip(table[name], row_offsets(table[name], grid.layout.tensor), strict=True):
            yield name, piece, slice(first, first + piece.slice_shape(grid.layout.tensor)[0])


class Rooms:
    """Where slices lie that are gathered: one's own until it is sent, those received until the next but one are."""

    def __init__(self) -> None:
        self.sent = Room()
        self.received = cycle((Room(), Room()))


def gather_piece(
    local: torch.Tensor, piece: Piece, dtype: torch.dtype, grid: Grid, to: int, rooms: Rooms
) -> Joined | None:
    """A Hugging Face tensor from the tensor ranks' slices, sent in `dtype`, on tensor rank `to`; None on the others."""
    tensor = grid.layout.tensor
    if piece.split == "none" or tensor == 1:
        return Joined([local]) if grid.tensor_rank == to else None
    own = rooms.sent.take(local.shape, dtype).copy_(local)
    slices = (
        list(next(rooms.received).take((tensor, *local.shape), dtype)) if grid.tensor_rank == to else None
    )
    dist.gather(own, slices, group=grid.side_tensor_group, group_dst=to)
    if slices is None:
        return None
    columns = piece.split == "columns"
    bounds = [piece.bounds(rank, tensor) for rank in range(tensor)]  # without what pads the last
    parts = [
        part.narrow(1 if columns else 0, 0, stop - start)
        for part, (start, stop) in zip(slices, bounds, strict=True)
    ]
    return Joined(parts, beside=columns)
