"""One optimizer step over a global batch, and what it reports."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import psutil
import torch
import torch.distributed as dist

from configs.schema import Config
from configs.shapes import ModelShape
from trainer.bounds import sample_bounds, to_device
from trainer.data.groups import means
from trainer.data.micro_batch import GlobalBatch, MicroBatch, at_targets
from trainer.guard import Guard
from trainer.layer_norms import LayerNorms
from trainer.loss import TargetLoss
from trainer.metrics import StepReport, peak_flops, step_flops
from trainer.optimizer import learning_rate
from trainer.parallel.engine import Engine
from trainer.parallel.grid import Grid
from trainer.parallel.passing import Passage

_MARK = 5
"""Hex digits of the data's hash that ranks compare each step. The hash is a chain, so what differs once goes on to."""


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
    layers: LayerNorms | None = None
    """Where `train.layer_norms_every` asks for them."""


@dataclass(frozen=True)
class Wishes:
    """What one rank wants after the step in progress; where any does, all do it."""

    stop: bool = False
    """It was told to stop."""
    give_up: bool = False
    """Its part of a checkpoint failed in the background."""


@dataclass(frozen=True)
class Taken:
    """What a step came to; the same on all ranks."""

    report: StepReport
    guard: Guard
    """After the step."""
    fault: str
    """Why weights and moments were left as they were; empty where the step was taken."""
    wishes: Wishes
    """Of any rank."""


def train_step(
    parts: StepParts,
    batch: GlobalBatch,
    step: int,
    guard: Guard,
    wishes: Callable[[], Wishes] = Wishes,
    begun: float | None = None,
    data_hash: str = "",
) -> Taken:
    """Run optimizer step `step` (from 1), or leave it out where `guard` objects. A collective of all ranks.

    `wishes` gives this rank's when all tell theirs, late in the step. The step's time counts from `begun`
    (time.perf_counter()), when the batch was asked for; by default from now. `data_hash` is the stream's after the
    batch. Raises RuntimeError where ranks have different ones: they were given other data.
    """
    entered = time.perf_counter()
    begun = entered if begun is None else begun
    grid, layout, config = parts.grid, parts.grid.layout, parts.config
    micro = batch.micro_batches(grid.data_rank, layout.data, config.batch.micro_rows)
    # DeepSpeed takes the mean over micro-batches and data ranks; ours is the sum over the batch's targets.
    parts.loss.scale = len(micro) * layout.data / max(1, batch.targets)
    lr = learning_rate(step - guard.skipped, parts.steps, config.optimizer)
    if parts.layers and config.train.layer_norms_every and step % config.train.layer_norms_every == 0:
        parts.layers.ask()
    shared: list[_Shared] = []

    def may_update(norm: float) -> bool:
        shared.append(_share(parts, norm, wishes(), data_hash))
        return not guard.fault(shared[0].loss(batch), shared[0].norm, config.guard)

    parts.engine.step([passage(m, grid.device) for m in micro], lr, may_update)
    (told,) = shared
    seconds = time.perf_counter() - begun
    loss, norm = told.loss(batch), told.norm
    if fault := guard.fault(loss, norm, config.guard):
        after = guard.left_out()
    else:
        after = guard.taken(loss, norm, config.guard)
    norms = parts.layers.take() if parts.layers else None
    losses = means(told.sums.tolist(), batch.targets_by_group, parts.source_names)
    report = StepReport(
        step=step,
        loss=loss,
        loss_by_source=losses.by_source,
        loss_by_kind=losses.by_kind,
        lr=lr,
        grad_norm=norm,
        targets=batch.targets,
        tokens=batch.tokens,
        target_share=batch.targets / max(1, batch.tokens),
        rows=len(batch.rows),
        fill=batch.fill,
        step_seconds=seconds,
        tokens_per_second=batch.tokens / seconds,
        data_wait_seconds=entered - begun,
        data_hash=data_hash,
        skipped=after.skipped,
        memory=_memory(grid.device),
        mfu=_mfu(parts, batch, seconds),
        grad_norm_by_layer=norms.gradients if norms else {},
        weight_norm_by_layer=norms.weights if norms else {},
    )
    return Taken(report, after, fault, told.wishes)


def passage(micro: MicroBatch, device: torch.device, *told: torch.Tensor) -> Passage:
    """A micro-batch on its way through the pipeline; `told`: what the loss is told of it beside labels and groups.

    All that layers need goes to the device at once, so that no micro-batch waits for the next one's numbers.
    """
    bounds = sample_bounds(micro.positions, device)
    labels = at_targets(micro.labels, micro.groups, *told)
    inputs = to_device(micro.tokens, device), bounds.positions
    return Passage(inputs, tuple(to_device(x, device) for x in labels), bounds)


@dataclass(frozen=True)
class _Shared:
    """What all ranks know alike of a step before its update."""

    sums: torch.Tensor
    """Of losses by group of source and kind over the global batch, float64 [groups] on the CPU."""
    norm: float
    wishes: Wishes

    def loss(self, batch: GlobalBatch) -> float:
        return float(self.sums.sum()) / max(1, batch.targets)


def _share(parts: StepParts, norm: float, wishes: Wishes, data_hash: str) -> _Shared:
    """One sum over all ranks, so that no two of them judge a step by numbers that differ in a bit."""
    sums = parts.loss.take_sums()
    if not parts.loss.is_here or parts.grid.tensor_rank != 0:
        sums.zero_()  # tensor ranks hold the same sums, stages without the head none
    mark = int(data_hash[:_MARK] or "0", 16)
    # All ranks have one mark exactly if their squares' mean is their mean's square; float64 holds these exactly.
    own = [norm, float(wishes.stop), float(wishes.give_up), mark, mark * mark]
    both = torch.cat((sums, torch.tensor(own, dtype=torch.float64, device=sums.device)))
    dist.all_reduce(both)
    ranks, device = dist.get_world_size(), sums.device
    sums, (norm, stop, give_up, total, squares) = both[: len(sums)].cpu(), both[len(sums) :].tolist()
    if int(squares) * ranks != int(total) ** 2:
        raise RuntimeError(_disagreement(mark, device))
    return _Shared(sums, norm / ranks, Wishes(stop > 0, give_up > 0))


def _disagreement(mark: int, device: torch.device) -> str:
    """Who has which hash; a collective of all ranks, all of which have noticed."""
    marks = [torch.zeros(1, dtype=torch.int64, device=device) for _ in range(dist.get_world_size())]
    dist.all_gather(marks, torch.tensor([mark], device=device))
    ranks: dict[int, list[int]] = {}
    for rank, theirs in enumerate(marks):
        ranks.setdefault(int(theirs), []).append(rank)
    found = "; ".join(
        f"{hash:0{_MARK}x} on rank {', '.join(map(str, numbers))}" for hash, numbers in ranks.items()
    )
    return (
        f"ranks were given different data, their hashes begin with {found}: data files, tokenizer or code differ "
        "between machines; make them the same and resume"
    )


def _mfu(parts: StepParts, batch: GlobalBatch, seconds: float) -> float | None:
    peak = peak_flops(parts.grid.device)
    if peak is None:
        return None
    flops = step_flops(parts.shape, sample_lengths(batch))
    return flops / (seconds * peak * parts.grid.layout.world_size)


def _memory(device: torch.device) -> int:
    """Bytes, as `StepReport.memory` has them, of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return psutil.Process().memory_info().rss


def sample_lengths(batch: GlobalBatch) -> Sequence[int]:
    """Tokens of each sample in the batch."""
    lengths: list[int] = []
    for row in batch.rows:
        starts = np.flatnonzero(row.positions[: row.filled] == 0)
        lengths += np.diff(np.append(starts, row.filled)).tolist()
    return lengths
