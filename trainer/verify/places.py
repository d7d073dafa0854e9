"""Which row and sample of the batch stands where in a rank's micro-batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from trainer.data.micro_batch import GlobalBatch, MicroBatch
from trainer.data.rows import IGNORED

Streams = dict[int, list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]]
"""Of each decoder layer here, numbered from 0: a micro-batch's hidden states after it, [s or s / tp, b, h], and the
positions before and after it, [b, s]."""


@dataclass(frozen=True)
class Place:
    """Where the rows of this rank's micro-batches stand in the batch."""

    data_rank: int
    data: int
    micro_rows: int

    def row(self, micro: int, b: int) -> int:
        """Number of row `b` of micro-batch `micro`."""
        return (micro * self.data + self.data_rank) * self.micro_rows + b


def sample_numbers(batch: GlobalBatch, place: Place, micro: MicroBatch, number: int) -> torch.Tensor:
    """Which sample of its row each token of a micro-batch belongs to, int64 [b, s], counted from 0; -1 where padded."""
    rows = [batch.rows[place.row(number, b)] for b in range(len(micro.tokens))]
    samples = torch.from_numpy(np.stack([np.cumsum(row.positions == 0) - 1 for row in rows]))
    for row, own in zip(rows, samples, strict=True):
        own[row.filled :] = -1
    return samples


def sample_losses(
    losses: Sequence[torch.Tensor], batch: GlobalBatch, place: Place, micros: Sequence[MicroBatch]
) -> list[tuple[int, int, float]]:
    """(row, sample, sum of its losses) of every sample here that has a target."""
    found: list[tuple[int, int, float]] = []
    left = iter(losses)
    for number, micro in enumerate(micros):
        wanted = micro.labels.transpose(0, 1) != IGNORED  # [s, b]
        if not wanted.any():
            continue
        samples = sample_numbers(batch, place, micro, number).transpose(0, 1)[wanted]  # [targets]
        rows = torch.arange(len(micro.tokens)).expand_as(wanted)[wanted]
        values = next(left).double()
        for b, sample in sorted({*zip(rows.tolist(), samples.tolist(), strict=True)}):
            own = (rows == b) & (samples == sample)
            found.append((place.row(number, b), sample, float(values[own].sum())))
    return found
