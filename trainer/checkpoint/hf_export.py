"""This job's parameters into a Hugging Face folder, one shard in memory at a time."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from configs.shapes import ModelShape
from trainer.checkpoint.manifest import Records
from trainer.checkpoint.postponed import Postponed
from trainer.checkpoint.tensors import write_tensors, write_text
from trainer.model.names import Piece, owned_table, row_offsets
from trainer.parallel.grid import Grid

MAX_SHARD_BYTES = 5_000_000_000
INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class Shard:
    """A weight file: who writes it, and which tensors it holds."""

    file: str
    stage: int
    names: tuple[str, ...]


def shard_plan(
    shape: ModelShape, bounds: Sequence[int], item_bytes: int, max_bytes: int = MAX_SHARD_BYTES
) -> list[Shard]:
    """The weight files of a model: each stage's tensors in order, a new file before `max_bytes` is passed.

    A pure function of its arguments, so that all ranks number the files alike without a word between them.
    """
    groups: list[tuple[int, list[str]]] = []
    for stage in range(len(bounds) - 1):
        used = max_bytes + 1
        for pieces in owned_table(shape, bounds, stage).values():
            for piece in pieces:
                size = prod(piece.shape) * item_bytes
                if used + size > max_bytes:
                    groups.append((stage, []))
                    used = 0
                groups[-1][1].append(piece.name)
                used += size
    count = len(groups)
    files = [f"model-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)]
    if count == 1:
        files = ["model.safetensors"]
    return [Shard(file, stage, tuple(names)) for file, (stage, names) in zip(files, groups, strict=True)]


def write_weights(
    folder: Path, shape: ModelShape, bounds: Sequence[int], parameters: Mapping[str, nn.Parameter], grid: Grid
) -> Records:
    """Write this stage's shards of the model into `folder`; a collective of the stage's tensor group.

    Only the first data rank's tensor group takes part, and its first tensor rank writes. The vocabulary is
    unpadded. Rank 0 writes the index. A rank that cannot write its part says so after the last gather. Returns what
    this rank has written.
    """
    failures = Postponed()
    written: Records = {}
    item_bytes = next(iter(parameters.values())).element_size()
    plan = shard_plan(shape, bounds, item_bytes)
    if grid.is_main and len(plan) > 1:
        index = {
            "metadata": {"total_size": shape.parameters() * item_bytes},
            "weight_map": {name: shard.file for shard in plan for name in shard.names},
        }
        with failures.attempt():
            text = json.dumps(index, indent=2) + "\n"
            written[INDEX] = write_text(folder / INDEX, text)
    if grid.data_rank != 0:
        return written
    tensor = grid.layout.tensor
    places = {
        piece.name: (parameters[name], offset, piece)
        for name, pieces in owned_table(shape, bounds, grid.stage).items()
        for piece, offset in zip(pieces, row_offsets(pieces, tensor), strict=True)
    }
    for shard in (shard for shard in plan if shard.stage == grid.stage):
        tensors: dict[str, torch.Tensor] = {}
        for name in shard.names:
            parameter, offset, piece = places[name]
            local = parameter.detach()[offset : offset + piece.slice_shape(tensor)[0]]
            whole = gather_piece(local.contiguous(), piece, grid)
            if whole is not None:
                tensors[name] = whole
        if grid.tensor_rank == 0:
            with failures.attempt():
                written[shard.file] = write_tensors(folder / shard.file, tensors)
    failures.settle()
    return written


def gather_piece(local: torch.Tensor, piece: Piece, grid: Grid) -> torch.Tensor | None:
    """A Hugging Face tensor, on the CPU, from its slices: on the first tensor rank; None on the others."""
    tensor = grid.layout.tensor
    if piece.split == "none" or tensor == 1:
        return local.cpu().clone() if grid.tensor_rank == 0 else None
    slices = [torch.empty_like(local) for _ in range(tensor)] if grid.tensor_rank == 0 else None
    dist.gather(local, slices, group=grid.tensor_group, group_dst=0)
    if slices is None:
        return None
    dimension = 0 if piece.split == "rows" else 1
    whole = torch.cat([part.cpu() for part in slices], dim=dimension)
    return whole[: piece.shape[0], : piece.shape[1]].contiguous()
