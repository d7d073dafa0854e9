"""Rows and micro-batches as plain arrays: what packing makes and the model's first and last stage take."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

IGNORED = -100
"""Label of a token that is no target, as in transformers."""


@dataclass(frozen=True)
class PackedRow:
    """Whole samples one after another, padded at the end to `sequence_length` (s).

    tokens:    int32 [s], pad id where padded
    labels:    int32 [s], the token itself where it is a target, else IGNORED; **not shifted**
    positions: int32 [s], restarting at 0 with each sample and once more where the padding begins
    sources:   int32 [s], index of the sample's source; 0 where padded
    kinds:     uint8 [s], SpanKind of each token; CONTROL where padded
    samples:   (source name, sample id) in the order they stand in the row
    filled:    tokens that are no padding
    """

    index: int
    tokens: NDArray[np.int32]
    labels: NDArray[np.int32]
    positions: NDArray[np.int32]
    sources: NDArray[np.int32]
    kinds: NDArray[np.uint8]
    samples: tuple[tuple[str, str], ...]
    filled: int
