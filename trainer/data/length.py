"""What becomes of a sample longer than a row, and of one that teaches nothing."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Literal

from tokenization.sample import TokenizedSample


@dataclass(frozen=True)
class LengthCounts:
    """Samples drawn, by what became of them (the first four sum to the draws), and targets cut off."""

    kept: int = 0
    """Whole."""
    truncated: int = 0
    """Kept up to the last whole turn that fits."""
    dropped_long: int = 0
    """Left out: longer than a row, and `drop` is set or no target would remain."""
    no_targets: int = 0
    """Left out: would cost time and teach nothing."""
    targets_lost: int = 0

    def __add__(self, other: LengthCounts) -> LengthCounts:
        return LengthCounts(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


def fit(
    sample: TokenizedSample, capacity: int, too_long: Literal["truncate", "drop"]
) -> tuple[TokenizedSample | None, LengthCounts]:
    """The sample as it is trained, at most `capacity` tokens long and with at least one target, or None.

    `truncate` keeps the turns from the start that fit whole: a call is never cut in the middle.
    """
    targets = int(sample.trained.sum())
    if targets == 0:
        return None, LengthCounts(no_targets=1)
    if len(sample) <= capacity:
        return sample, LengthCounts(kept=1)
    end = (
        max((end for end in sample.turn_ends if end <= capacity), default=0) if too_long == "truncate" else 0
    )
    left = int(sample.trained[:end].sum())
    if left == 0:
        return None, LengthCounts(dropped_long=1, targets_lost=targets)
    short = replace(
        sample,
        tokens=sample.tokens[:end],
        trained=sample.trained[:end],
        kinds=sample.kinds[:end],
        turn_ends=tuple(e for e in sample.turn_ends if e <= end),
    )
    return short, LengthCounts(truncated=1, targets_lost=targets - left)
