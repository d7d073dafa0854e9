"""The micro-batch that passes through this rank's layers: what is known of it before it arrives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch

from trainer.bounds import SampleBounds

Tensors = tuple[torch.Tensor, ...]


class Passage(NamedTuple):
    """A micro-batch as the pipeline takes it."""

    inputs: Tensors
    """Tokens and positions [b, s], for the first stage."""
    labels: Tensors
    """What the loss is told, on the last."""
    bounds: SampleBounds
    """Every stage knows it: each rank has the rows."""


class Passing:
    """Positions travel with the hidden states. To read on the host where samples begin, a stage would have to wait for
    the device at each micro-batch, so ranks work it out from their own rows: both schedules pass micro-batches forward
    in order through each part of the pipeline. Should what arrives be another one, it is an error, never a mask.
    """

    def __init__(self) -> None:
        self.now: SampleBounds | None = None
        """Of the micro-batch that is passing; None outside a pass of the pipeline."""
        self._coming: dict[int, Iterator[SampleBounds]] = {}
        self._all: Sequence[SampleBounds] = ()

    def expect(self, micro_batches: Sequence[Passage]) -> None:
        """These come next, in this order."""
        self._all = [micro.bounds for micro in micro_batches]
        self._coming = {}

    @contextmanager
    def through(self, part: int, inputs: Tensors) -> Iterator[None]:
        """While the next micro-batch passes through part `part` of this rank's layers.

        inputs: what arrived, (hidden states or tokens, positions). Raises RuntimeError where the positions are not
        those of the micro-batch that is due; on a GPU the kernel that compares them does.
        """
        due = next(self._coming.setdefault(part, iter(self._all)), None)
        if due is None:
            raise RuntimeError(f"{len(self._all)} micro-batches were expected, and one more has come")
        same = (inputs[1] == due.positions).all()
        said = "the positions of a micro-batch are not those of the rows that are due at this stage"
        if same.is_cuda:
            torch._assert_async(same, said)  # pyright: ignore[reportPrivateImportUsage]
        elif not same:
            raise RuntimeError(said)
        self.now = due
        try:
            yield
        finally:
            self.now = None
