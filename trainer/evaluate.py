"""One evaluation: the loss of held-out data, and which of its tokens and calls the model gets right."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from trainer.data.calls import call_parts
from trainer.data.groups import count_targets, groups_of, means
from trainer.data.held_out import HeldOut
from trainer.data.micro_batch import GlobalBatch, shifted, to_micro_batch
from trainer.data.rows import PackedRow
from trainer.evaluations import EvaluationReport
from trainer.step import StepParts, passage
from trainer.watchdog import beat


def is_due(every: int | None, step: int, steps: int) -> bool:
    """Whether an evaluation follows step `step` of `steps`: every so many, and the last."""
    return every is not None and (step % every == 0 or step == steps)


def evaluate(
    parts: StepParts, held_out: HeldOut, step: int, stop: Callable[[], bool] = lambda: False
) -> tuple[EvaluationReport, bool]:
    """Pass the held-out rows forward through the model as it is after step `step`. A collective of all ranks.

    Nothing that a later step depends on changes. The report is the same on all ranks but for its seconds. Second:
    whether `stop()` holds on any rank once all is looked at.
    """
    begun = time.perf_counter()
    grid, layout, config = parts.grid, parts.grid.layout, parts.config
    micro_rows = config.batch.micro_rows
    batch = GlobalBatch(held_out.padded(layout.data * micro_rows, layout.least_micro_batches))
    parted, calls = _parted(batch.rows)
    tally = _Tally.empty(groups_of(len(held_out.sources)), calls, grid.device)
    micros = []
    for rows in batch.dealt(grid.data_rank, layout.data, micro_rows):
        micro = to_micro_batch(rows)
        micros.append(passage(micro, grid.device, shifted([parted[row.index] for row in rows], -1)))
    with parts.loss.apart(tally.losses, tally.add):
        parts.engine.evaluate(micros, beat)
    stopped = torch.tensor([float(stop())], dtype=torch.float64, device=grid.device)
    told = [tally.losses, tally.right, tally.missed.flatten()]
    if not parts.loss.is_here or grid.tensor_rank != 0:
        told = [torch.zeros_like(each) for each in told]  # tensor ranks have the same, other stages nothing
    both = torch.cat((*told, stopped))
    dist.all_reduce(both)
    losses, right, missed, (stopping,) = both.cpu().split([len(each) for each in (*told, stopped)])
    counts = count_targets(held_out.rows)
    targets = sum(counts.values())
    mean = means(losses.tolist(), counts, held_out.sources)
    exact = missed.reshape(calls, 2) == 0  # [calls, (name, arguments)]
    report = EvaluationReport(
        step=step,
        loss=mean.whole,
        loss_by_source=mean.by_source,
        loss_by_kind=mean.by_kind,
        targets=targets,
        token_accuracy=float(right.sum()) / targets,
        calls=calls,
        name_exact=_share(exact[:, 0]),
        arguments_exact=_share(exact[:, 1]),
        call_exact=_share(exact.all(1)),
        seconds=time.perf_counter() - begun,
        data_hash=held_out.hash,
    )
    return report, bool(stopping > 0)


@dataclass(frozen=True)
class _Tally:
    """What this rank's targets come to, summed as they pass."""

    losses: torch.Tensor
    """By group, float64 [groups]."""
    right: torch.Tensor
    """Targets whose own logit is the largest, by group, float64 [groups]."""
    missed: torch.Tensor
    """Tokens that are not right of each call's name, and of its values; float64 [calls, 2]."""

    @classmethod
    def empty(cls, groups: int, calls: int, device: torch.device) -> _Tally:
        def zeros(*sizes: int) -> torch.Tensor:
            return torch.zeros(sizes, dtype=torch.float64, device=device)

        return cls(zeros(groups), zeros(groups), zeros(calls, 2))

    def add(self, predicted: torch.Tensor, targets: Sequence[torch.Tensor]) -> None:
        """predicted: ids, int64 [k]; targets: the ids that are right, groups and parts of calls, int64 [k] each."""
        wanted, groups, parts = targets
        right = (predicted == wanted).double()
        self.right.index_add_(0, groups, right)
        called = parts >= 0
        self.missed.view(-1).index_add_(0, parts[called], 1 - right[called])


def _parted(rows: Sequence[PackedRow]) -> tuple[list[NDArray[np.int32]], int]:
    """`call_parts` of each row, calls counted through all rows; and how many calls there are."""
    parted: list[NDArray[np.int32]] = []
    calls = 0
    for row in rows:
        own = call_parts(row)
        parted.append(np.where(own >= 0, own + np.int32(2 * calls), own))
        calls += int(own.max(initial=-1)) // 2 + 1
    return parted, calls


def _share(exact: torch.Tensor) -> float | None:
    return float(exact.double().mean()) if len(exact) else None
