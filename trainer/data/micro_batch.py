"""Rows as tensors: the global batch of an optimizer step, its micro-batches, and the only shift of labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from configs.errors import ConfigError
from trainer.data.groups import added, count_targets, group_of, source_of
from trainer.data.rows import IGNORED, PackedRow


@dataclass(frozen=True)
class MicroBatch:
    """b rows of s tokens, on the CPU. All int64 [b, s].

    tokens:    the rows' tokens
    labels:    the token to predict at each place: the *next* one where it is a target, else IGNORED; the last
               column is IGNORED
    positions: restart at 0 with each sample and where the padding begins
    groups:    `group_of` the label at each place, by its source and kind; 0 where padded and in the last column
    """

    tokens: torch.Tensor
    labels: torch.Tensor
    positions: torch.Tensor
    groups: torch.Tensor


@dataclass(frozen=True)
class GlobalBatch:
    """The rows of one optimizer step, of all data-parallel ranks together."""

    rows: tuple[PackedRow, ...]

    @cached_property
    def targets(self) -> int:
        """Tokens the loss is summed over and divided by."""
        return sum(self.targets_by_source.values())

    @cached_property
    def targets_by_source(self) -> dict[int, int]:
        """Targets per source index, ascending; sources without any in this batch are absent."""
        return added(self.targets_by_group, source_of)

    @cached_property
    def targets_by_group(self) -> dict[int, int]:
        """Targets per group of source and kind; groups without any in this batch are absent."""
        return count_targets(self.rows)

    @cached_property
    def tokens(self) -> int:
        """Tokens that are no padding."""
        return sum(row.filled for row in self.rows)

    @cached_property
    def fill(self) -> float:
        """Part of the rows that is no padding, 0 to 1."""
        return self.tokens / sum(len(row.tokens) for row in self.rows)

    def micro_batches(self, data_rank: int, data_size: int, micro_rows: int) -> list[MicroBatch]:
        """The micro-batches of one data-parallel rank, in order: those of `dealt`."""
        return [to_micro_batch(rows) for rows in self.dealt(data_rank, data_size, micro_rows)]

    def dealt(self, data_rank: int, data_size: int, micro_rows: int) -> list[tuple[PackedRow, ...]]:
        """The rows of each micro-batch of one data-parallel rank, in order.

        The batch is dealt out in order, `micro_rows` rows to each rank in turn, so row k belongs to rank
        `k // micro_rows % data_size`. Raises ConfigError where that does not come out even.
        """
        turn = data_size * micro_rows
        if len(self.rows) % turn:
            raise ConfigError(
                f"batch.rows is {len(self.rows)}, no multiple of data-parallel size {data_size} x "
                f"batch.micro_rows {micro_rows}; set batch.rows to a multiple of {turn}"
            )
        first = data_rank * micro_rows
        return [self.rows[start : start + micro_rows] for start in range(first, len(self.rows), turn)]


def global_batches(stream: Iterator[PackedRow], rows: int) -> Iterator[GlobalBatch]:
    """`rows` rows of the stream at a time. Reads no further than the batch it yields."""
    while True:
        yield GlobalBatch(tuple(next(stream) for _ in range(rows)))


def to_micro_batch(rows: Sequence[PackedRow]) -> MicroBatch:
    """Rows of one length as tensors, labels shifted.

    Raises ValueError where the first token of a sample is a target: the sample before it would predict it.
    """
    for row in rows:
        if np.any(row.labels[row.positions == 0] != IGNORED):
            raise ValueError(
                f"row {row.index}: the first token of a sample is a target, but nothing comes before it; "
                "leave it out of the mask"
            )
    labels = [row.labels for row in rows]
    groups = [group_of(row.sources, row.kinds) for row in rows]
    return MicroBatch(
        tokens=_tensor(np.stack([row.tokens for row in rows])),
        labels=shifted(labels, IGNORED),
        positions=_tensor(np.stack([row.positions for row in rows])),
        groups=shifted(groups, 0),
    )


def at_targets(labels: torch.Tensor, *told: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """What the loss is given of a micro-batch: places of its targets in the flattened [s, b], their labels, and what
    else is `told` of each; int64 [k] each. labels: shifted, int64 [b, s], IGNORED where no target; told: int64 [b, s].

    Found here, on the CPU: a GPU would have to tell the host how many there are, and that to wait for it.
    """
    wanted, *others = (x.transpose(0, 1).flatten() for x in (labels, *told))  # [s b]
    places = (wanted != IGNORED).nonzero().flatten()
    return places, wanted[places], *(x[places] for x in others)


def shifted(values: Sequence[NDArray[np.int32]], last: int) -> torch.Tensor:
    """What rows [s] say of each token, at the place that predicts it: one to the left, `last` in the last column;
    int64 [b, s]."""
    stacked = np.stack(values)
    return _tensor(np.concatenate([stacked[:, 1:], np.full_like(stacked[:, :1], last)], axis=1))


def _tensor(values: NDArray[np.int32]) -> torch.Tensor:
    return torch.from_numpy(values.astype(np.int64))
