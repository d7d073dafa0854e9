"""One optimizer step over a global batch, and what it reports."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist

from configs.schema import Config
from configs.shapes import ModelShape
from trainer.data.micro_batch import GlobalBatch
from trainer.loss import TargetLoss
from trainer.metrics import StepReport, peak_flops, step_flops
from trainer.optimizer import learning_rate
from trainer.parallel.engine import Engine
from trainer.parallel.grid import Grid


@dataclass(frozen=True)
class StepParts:
    """What a step needs of the run."""

    config: Config
    shape: ModelShape
    grid: Grid
    engine: Engine
    loss: TargetLoss
    source_names: tuple[str, ...]
    steps: int
    """Optimizer steps of the whole run, which the learning rate's schedule spans."""


def train_step(
    parts: StepParts, batch: GlobalBatch, step: int, stop: bool, begun: float | None = None
) -> tuple[StepReport, bool]:
    """Run optimizer step `step` (from 1). A collective of all ranks, which all return the same report.

    `stop` is this rank's wish to stop after the step; the second value tells whether any rank has it. The step's
    time counts from `begun` (time.perf_counter()), so that it can include making the batch; by default from now.
    """
    begun = time.perf_counter() if begun is None else begun
    grid, layout, config = parts.grid, parts.grid.layout, parts.config
    micro = batch.micro_batches(grid.data_rank, layout.data, config.batch.micro_rows)
    # DeepSpeed takes the mean over micro-batches and data ranks; ours is the sum over the batch's targets.
    parts.loss.scale = len(micro) * layout.data / max(1, batch.targets)
    lr = learning_rate(step, parts.steps, config.optimizer)
    grad_norm = parts.engine.step([((m.tokens, m.positions), (m.labels, m.sources)) for m in micro], lr)
    sums, stop = _shared(parts, stop)
    seconds = time.perf_counter() - begun
    targets = batch.targets_by_source
    by_source = {
        name: float(sums[i]) / targets[i]
        for i, name in enumerate(parts.source_names)
        if targets.get(i, 0) > 0
    }
    report = StepReport(
        step=step,
        loss=float(sums.sum()) / max(1, batch.targets),
        loss_by_source=by_source,
        lr=lr,
        grad_norm=grad_norm,
        targets=batch.targets,
        tokens=batch.tokens,
        rows=len(batch.rows),
        fill=batch.fill,
        step_seconds=seconds,
        tokens_per_second=batch.tokens / seconds,
        mfu=_mfu(parts, batch, seconds),
    )
    return report, stop


def _shared(parts: StepParts, stop: bool) -> tuple[torch.Tensor, bool]:
    """Loss sums by source over the global batch, float64 [sources] on the CPU, and whether any rank will stop."""
    sums = parts.loss.take_sums()
    if not parts.grid.last_stage or parts.grid.tensor_rank != 0:
        sums.zero_()  # tensor ranks hold the same sums, earlier stages none
    wish = torch.tensor([float(stop)], dtype=torch.float64, device=sums.device)
    both = torch.cat((sums, wish))
    dist.all_reduce(both)
    both = both.cpu()
    return both[:-1], bool(both[-1] > 0)


def _mfu(parts: StepParts, batch: GlobalBatch, seconds: float) -> float | None:
    peak = peak_flops(parts.grid.device)
    if peak is None:
        return None
    flops = step_flops(parts.shape, sample_lengths(batch))
    return flops / (seconds * peak * parts.grid.layout.world_size)


def sample_lengths(batch: GlobalBatch) -> Sequence[int]:
    """Tokens of each sample in the batch."""
    lengths: list[int] = []
    for row in batch.rows:
        starts = np.flatnonzero(row.positions[: row.filled] == 0)
        lengths += np.diff(np.append(starts, row.filled)).tolist()
    return lengths
