"""What the stream has given so far, per source, for logs."""

from __future__ import annotations

from dataclasses import dataclass

from tokenization.length import LengthCounts


@dataclass(frozen=True)
class Packed:
    """What of a source is in rows."""

    samples: int = 0
    tokens: int = 0
    targets: int = 0

    def __add__(self, other: Packed) -> Packed:
        return Packed(self.samples + other.samples, self.tokens + other.tokens, self.targets + other.targets)


@dataclass(frozen=True)
class SourceReport:
    name: str
    share: float
    """Of the draws, as the config asks for it."""
    drawn: int
    """Samples drawn: in rows, waiting for one, or left out."""
    epochs: float
    """Draws divided by the source's rows."""
    packed: Packed
    fill: float
    """Part of all row positions this source took; the sources' sum is the fill of the rows."""
    counts: LengthCounts

    def __str__(self) -> str:
        """One line for a log."""
        lost = (
            f"{self.counts.truncated:,} cut, {self.counts.dropped_long:,} too long and "
            f"{self.counts.no_targets:,} without targets left out ({self.counts.targets_lost:,} targets lost)"
        )
        return (
            f"{self.name}: trained on {self.packed.samples:,} samples with {self.packed.tokens:,} tokens and "
            f"{self.packed.targets:,} targets; of {self.drawn:,} drawn, {lost}, the rest waits for a row"
        )
