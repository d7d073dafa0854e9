"""This job's weights as the files of a Hugging Face folder have them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from math import prod
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, mmap
from pathlib import Path

import torch
import torch.distributed as dist

from configs.shapes import ModelShape
from trainer.checkpoint.manifest import Records
from trainer.checkpoint.postponed import Postponed
from trainer.checkpoint.shards import Shard
from trainer.checkpoint.tensors import write_tensors, write_text
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
    """Write shards, one at the most for each of the tensor ranks that hold their parameters: a collective of theirs.

    All are gathered first, so that the ranks then write at the same time.
    """
    written: Records = {}
    own: dict[str, dict[str, torch.Tensor]] = {}
    for shard, weights in shards.items():
        tensors = gather_shard(shard, weights, table, dtype, grid)
        own |= {shard.file: tensors} if tensors else {}
    for name, tensors in own.items():
        with failures.attempt():
            written[name] = write_tensors(folder / name, tensors)
    return written


def gather_shard(
    shard: Shard, weights: Weights, table: Table, dtype: torch.dtype, grid: Grid
) -> dict[str, torch.Tensor]:
    """A shard's Hugging Face tensors, in `dtype`, on the tensor rank that is to write them; none on the others.

    A collective of the tensor ranks that hold its parameters.
    """
    tensors: dict[str, torch.Tensor] = {}
    for name in shard.parameters:
        offsets = row_offsets(table[name], grid.layout.tensor)
        for piece, offset in zip(table[name], offsets, strict=True):
            rows = piece.slice_shape(grid.layout.tensor)[0]
            local = weights[name].detach()[offset : offset + rows]
            whole = gather_piece(local, piece, dtype, grid, shard.tensor_rank)
            if whole is not None:
                tensors[piece.name] = whole
    return tensors


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
    memory = mmap(-1, max(1, prod(shape)) * dtype.itemsize, flags=MAP_PRIVATE | MAP_ANONYMOUS)
    return torch.frombuffer(memory, dtype=dtype)[: prod(shape)].view(shape)
