"""What a checkpoint takes of main memory and of the disk."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from trainer.checkpoint.shards import own_shards, shard_plan
from trainer.model.names import owned_table
from trainer.plan.setup import Setup

STATE = 12
"""Bytes of a number's float32 weight and moments, of which a rank writes copies."""


@dataclass(frozen=True)
class Saving:
    """Bytes."""

    background: int
    """Copies on the node that holds most of them, while a checkpoint is written beside training."""
    at_once: int
    """The same where training waits: as many shards at a time as there are tensor ranks."""
    disk: int
    """A checkpoint: weights, float32 weights and moments."""


def saving(setup: Setup) -> Saving:
    """As `trainer.checkpoint.saver` divides the writing among ranks."""
    layout, per_node = setup.layout, setup.cluster.per_node
    plan = shard_plan(setup.shape, setup.stages, setup.item, layout)
    background: dict[int, int] = {}
    at_once: dict[int, int] = {}
    for stage in range(layout.pipeline):
        table = owned_table(setup.shape, setup.stages, stage)
        rounds = own_shards(plan, stage, layout.data)
        for data_rank in range(layout.data):
            copies = [
                STATE
                * sum(prod(p.slice_shape(layout.tensor)) for name in shard.parameters for p in table[name])
                for shards in rounds
                for shard in shards
                if shard.data_rank == data_rank
            ]
            groups = [copies[i : i + layout.tensor] for i in range(0, len(copies), layout.tensor)]
            first = layout.tensor * (data_rank + layout.data * stage)
            for rank in range(first, first + layout.tensor):
                node = rank // per_node
                background[node] = background.get(node, 0) + sum(copies)
                at_once[node] = at_once.get(node, 0) + max(map(sum, groups), default=0)
    disk = setup.shape.parameters() * (setup.item + STATE)
    return Saving(max(background.values()), max(at_once.values()), disk)
