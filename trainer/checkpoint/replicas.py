"""What all tensor ranks of a stage hold, the weights of its norms, is compared before one writes it for all."""

from __future__ import annotations

import torch
import torch.distributed as dist

from trainer.checkpoint.training_state import Snapshot
from trainer.model.names import Table
from trainer.parallel.grid import Grid

FAR = 0.1
"""Of the largest number of a tensor: more than kernels that add in no fixed order drift apart."""


def check_replicas(snapshot: Snapshot, table: Table, grid: Grid) -> None:
    """Raise ValueError, on all of them alike, where the tensor ranks' states of one parameter are not the same.

    A collective of the tensor ranks that hold the shard. A bit that was flipped in such a gradient on another rank than
    the first is in no norm that a step is judged by; saved, it would be gone or everybody's, as chance has it.
    """
    ranks = grid.layout.tensor
    for name in snapshot.shard.parameters if ranks > 1 else ():
        if any(piece.split != "none" for piece in table[name]):
            continue
        for kind, own in snapshot.state[name].items():
            held = [torch.empty_like(own) for _ in range(ranks)]
            dist.all_gather(held, own, group=grid.side_tensor_group)
            if apart(torch.stack(held)):
                of = ", ".join(piece.name for piece in table[name])
                first = grid.rank - grid.tensor_rank
                raise ValueError(
                    f"ranks {first} to {first + ranks - 1} have different states ({kind}) of {of}, which they must "
                    "hold alike: a fault of the machine or of a kernel since the checkpoint before, which is in force. "
                    "The same command goes on from that"
                )


def apart(held: torch.Tensor) -> bool:
    """Whether copies [copies, ...] differ by more than rounding."""
    copies = held.flatten(1)
    within = FAR * copies.abs().amax(1).min()
    return not bool(((copies - copies[0]).abs() <= within).all())
