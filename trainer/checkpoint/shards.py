"""Which rank writes what: pure functions of model, stages and layout, so that all ranks agree without a word."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

from configs.layout import Layout
from configs.shapes import ModelShape
from trainer.model.names import owned_table
from trainer.stages import Ranges

MOST_BYTES = 2_000_000_000
"""Of a weight file. What lies beside one, six times as much of bfloat16, is copied at a time where a checkpoint is not
written in the background."""
LEAST_BYTES = 256 << 20
"""Smaller ones are not made only to let more ranks write."""


@dataclass(frozen=True)
class Shard:
    """A file of weights, and the part of a stage whose state is kept beside it.

    Data ranks hold the same state after a collective of theirs, so they divide the shards: the tensor ranks of
    `data_rank` write one, each its own slices of the state, and `tensor_rank` the whole weights that it gathers.
    """

    file: str
    stage: int
    data_rank: int
    tensor_rank: int
    parameters: tuple[str, ...]
    """Their names in the pipeline, in the order of the forward pass."""
    names: tuple[str, ...]
    """The Hugging Face tensors that they are made of."""


def shard_plan(
    shape: ModelShape,
    stages: Sequence[Ranges],
    item_bytes: int,
    layout: Layout,
    most_bytes: int = MOST_BYTES,
    least_bytes: int = LEAST_BYTES,
) -> list[Shard]:
    """The weight files of a model, each stage's parameters in order, at most `most_bytes` a file of several.

    Large stages are cut into as many files as they have ranks, which then write them at the same time.
    """
    groups: list[_Group] = []
    for stage in range(len(stages)):
        table = owned_table(shape, stages, stage)
        sizes = {name: sum(prod(p.shape) for p in pieces) * item_bytes for name, pieces in table.items()}
        share = -(-sum(sizes.values()) // (layout.data * layout.tensor))
        limit = min(most_bytes, max(least_bytes, share + max(sizes.values())))
        number, used = -1, limit
        for name, size in sizes.items():
            if used + size > limit:
                number, used = number + 1, 0
                groups.append(_Group(stage, number, []))
            groups[-1].parameters.append(name)
            used += size
    count = len(groups)
    files = [f"model-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)]
    if count == 1:
        files = ["model.safetensors"]
    return [
        Shard(
            file=file,
            stage=stage,
            data_rank=number % layout.data,
            tensor_rank=number // layout.data % layout.tensor,
            parameters=tuple(parameters),
            names=tuple(p.name for name in parameters for p in owned_table(shape, stages, stage)[name]),
        )
        for file, (stage, number, parameters) in zip(files, groups, strict=True)
    ]


class _Group(NamedTuple):
    stage: int
    number: int
    """In its stage."""
    parameters: list[str]


def own_shards(plan: Sequence[Shard], stage: int, data_ranks: int) -> list[list[Shard]]:
    """A stage's shards in rounds of one for each data rank, in which all of them write at the same time."""
    own = [shard for shard in plan if shard.stage == stage]
    return [own[first : first + data_ranks] for first in range(0, len(own), data_ranks)]
