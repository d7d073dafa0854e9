"""What all tensor ranks of a stage hold, the weights of its norms, is compared before one writes it for all."""

from __future__ import annotations

import torch
import torch.distributed as dist

from trainer.checkpoint.training_state import Snapshot
from trainer.model.names import Table
from trainer.parallel.grid import Grid

TOLERANCE = {"cpu": 0.0, "cuda": 0.1}
"""Of a tensor's largest number. One thread on a CPU adds in one order; that CUDA's kernels do is not shown yet, and
what is refused in error could not be saved at all."""


def check_replicas(snapshot: Snapshot, table: Table, grid: Grid) -> None:
    """Raise ValueError, on all of them alike, where the tensor ranks' states of one parameter differ.

    A collective of the tensor ranks that hold the shard. A bit that was flipped in such a gradient on another rank than
    the first is in no norm that a step is judged by; saved, it would be gone or everybody's, as chance has it.
    """
    ranks, tolerance = grid.layout.tensor, TOLERANCE[grid.device.type]
    for name in snapshot.shard.parameters if ranks > 1 else ():
        if any(piece.split != "none" for piece in table[name]):
            continue
        for kind, own in snapshot.state[name].items():
            held = [torch.empty_like(own) for _ in range(ranks)]
            dist.all_gather(held, own, group=grid.side_tensor_group)
            if differ(torch.stack(held), tolerance):
                of = ", ".join(piece.name for piece in table[name])
                first = grid.rank - grid.tensor_rank
                raise ValueError(
                    f"ranks {first} to {first + ranks - 1} have different states ({kind}) of {of}, which they must "
                    "hold alike: a fault of the machine or of a kernel since the last checkpoint"
                )


def differ(held: torch.Tensor, tolerance: float) -> bool:
    """Whether copies [copies, ...] differ by more than `tolerance` of the largest number."""
    copies = held.flatten(1)
    within = tolerance * copies.abs().amax(1).min()
    return not bool(((copies - copies[0]).abs() <= within).all())
