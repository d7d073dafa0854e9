"""A part of this job's weights into a file of a Hugging Face folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
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


def write_index(folder: Path, plan: Sequence[Shard], shape: ModelShape, item_bytes: int) -> Records:
    """Which tensor is in which file; nothing where there is one file. Raises OSError."""
    if len(plan) == 1:
        return {}
    index = {
        "metadata": {"total_size": shape.parameters() * item_bytes},
        "weight_map": {name: shard.file for shard in plan for name in shard.names},
    }
    return {INDEX: write_text(folder / INDEX, json.dumps(index, indent=2) + "\n")}


def write_shard(
    folder: Path,
    shard: Shard,
    weights: Mapping[str, torch.Tensor],
    table: Table,
    dtype: torch.dtype,
    grid: Grid,
    failures: Postponed,
) -> Records:
    """Write a shard's tensors, in `dtype`, on one of the tensor ranks that hold its parameters; their collective.

    weights: this rank's slice of each of the shard's parameters, on the CPU
    """
    tensors: dict[str, torch.Tensor] = {}
    for name in shard.parameters:
        offsets = row_offsets(table[name], grid.layout.tensor)
        for piece, offset in zip(table[name], offsets, strict=True):
            rows = piece.slice_shape(grid.layout.tensor)[0]
            local = weights[name].detach()[offset : offset + rows].to(dtype)
            whole = gather_piece(local.contiguous(), piece, grid, shard.tensor_rank)
            if whole is not None:
                tensors[piece.name] = whole
    written: Records = {}
    if tensors:
        with failures.attempt():
            written[shard.file] = write_tensors(folder / shard.file, tensors)
    return written


def gather_piece(local: torch.Tensor, piece: Piece, grid: Grid, to: int) -> torch.Tensor | None:
    """A Hugging Face tensor from its slices, on tensor rank `to`; None on the others."""
    tensor = grid.layout.tensor
    if piece.split == "none" or tensor == 1:
        return local if grid.tensor_rank == to else None
    slices = [torch.empty_like(local) for _ in range(tensor)] if grid.tensor_rank == to else None
    dist.gather(local, slices, group=grid.side_tensor_group, group_dst=to)
    if slices is None:
        return None
    whole = torch.empty(piece.shape, dtype=local.dtype)
    along = 1 if piece.split == "columns" else 0
    for rank, part in enumerate(slices):
        start, stop = piece.bounds(rank, tensor)
        whole.narrow(along, start, stop - start).copy_(part.narrow(along, 0, stop - start))
    return whole
