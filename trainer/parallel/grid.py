"""Where this process stands in tensor x pipeline x data parallelism; the only user of parallel_state."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import cast

import torch
import torch.distributed as dist
from megatron.core import parallel_state

from configs.layout import Layout
from trainer.parallel.cpu import prepare_cpu_host

_LONG = timedelta(days=1)


@dataclass(frozen=True)
class Grid:
    """This rank's coordinates and groups. Tensor ranks are neighbours, then data ranks, then stages."""

    layout: Layout
    rank: int
    tensor_rank: int
    data_rank: int
    stage: int
    device: torch.device
    tensor_group: dist.ProcessGroup
    side_group: dist.ProcessGroup | None = None
    """All ranks, with tensors on the CPU: for what files hold, apart from the steps, which may go on meanwhile."""
    side_tensor_group: dist.ProcessGroup | None = None
    """This rank's tensor group, likewise."""

    @property
    def is_main(self) -> bool:
        """The one rank that prints, logs and commits."""
        return self.rank == 0

    @property
    def sequence_parallel(self) -> bool:
        return self.layout.sequence and self.layout.tensor > 1


def start_grid(layout: Layout, timeout: timedelta = timedelta(minutes=30)) -> Grid:
    """Join the process groups; RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT come from the launcher.

    Raises ValueError where the number of processes is not tensor x pipeline x data.
    """
    processes = int(os.environ["WORLD_SIZE"])
    if processes != layout.world_size:
        raise ValueError(
            f"{processes} processes were started for a layout of {layout} = {layout.world_size}: "
            f"start {layout.world_size}"
        )
    prepare_cpu_host()
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if cuda else "gloo", timeout=timeout)
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=layout.tensor,
        pipeline_model_parallel_size=layout.pipeline,
        create_gloo_process_groups=False,
    )
    # One rank's disk may be slow: `run.hang_seconds` is the limit of waiting for it.
    side_group, *tensor_groups = (
        dist.new_group(ranks, timeout=_LONG, backend="gloo")
        for ranks in [list(range(processes)), *tensor_ranks(layout)]
    )
    grid = current_grid(layout)
    return replace(grid, side_group=side_group, side_tensor_group=tensor_groups[grid.rank // layout.tensor])


def tensor_ranks(layout: Layout) -> list[list[int]]:
    """The ranks of each tensor group: neighbours."""
    return [list(range(first, first + layout.tensor)) for first in range(0, layout.world_size, layout.tensor)]


def current_grid(layout: Layout) -> Grid:
    """The grid of process groups that are already up (also fake ones, for building on the meta device)."""
    cuda = torch.cuda.is_available()
    return Grid(
        layout=layout,
        rank=dist.get_rank(),
        tensor_rank=parallel_state.get_tensor_model_parallel_rank(),
        data_rank=parallel_state.get_data_parallel_rank(),
        stage=parallel_state.get_pipeline_model_parallel_rank(),
        device=torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu"),
        tensor_group=cast(dist.ProcessGroup, parallel_state.get_tensor_model_parallel_group()),
    )


def stop_grid() -> None:
    """Leave all process groups, so that this process can join others."""
    from deepspeed.comm import comm as deepspeed_comm

    parallel_state.destroy_model_parallel()
    if dist.is_initialized():
        dist.destroy_process_group()
    deepspeed_comm.cdb = None
