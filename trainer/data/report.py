"""What the stream has given so far, per source, for logs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    """Of the draws or of their targets, as the config asks for it."""
    drawn: int
    """Samples drawn: in rows, waiting for one, or left out."""
    epochs: float
    """Passes over the source's rows: draws that are in rows or were left out, divided by them."""
    targets: int
    """Of the samples drawn."""
    packed: Packed
    fill: float
    """Part of all row positions this source took; the sources' sum is the fill of the rows."""
    counts: LengthCounts
    bad: Mapping[str, int]
    """Rows left out for a fault, by reason."""


_HEADINGS = (
    *("source", "asked", "drawn", "share", "epochs", "targets", "share", "in rows", "tokens", "fill"),
    *("cut", "too long", "no target", "bad", "targets lost"),
)


def values(reports: Sequence[SourceReport]) -> dict[str, float]:
    """The same as numbers, by `data/SOURCE/WHAT`."""
    numbers = {
        "drawn": lambda r: r.drawn,
        "epochs": lambda r: r.epochs,
        "targets": lambda r: r.packed.targets,
        "tokens": lambda r: r.packed.tokens,
        "fill": lambda r: r.fill,
        "cut": lambda r: r.counts.truncated,
        "too long": lambda r: r.counts.dropped_long,
        "bad": lambda r: sum(r.bad.values()),
        "targets lost": lambda r: r.counts.targets_lost,
    }
    return {f"data/{r.name}/{what}": number(r) for r in reports for what, number in numbers.items()}


def table(reports: Sequence[SourceReport]) -> str:
    """A line a source, for a log or a terminal: draws, with those that still await a row, and what is in rows."""
    draws = sum(report.drawn for report in reports) or 1
    targets = sum(report.packed.targets for report in reports) or 1
    lines = [
        [
            *(r.name, f"{r.share:.1%}", f"{r.drawn:,}", f"{r.drawn / draws:.2%}", f"{r.epochs:.2f}"),
            *(f"{r.packed.targets:,}", f"{r.packed.targets / targets:.2%}"),
            *(f"{r.packed.samples:,}", f"{r.packed.tokens:,}", f"{r.fill:.2%}"),
            *(f"{r.counts.truncated:,}", f"{r.counts.dropped_long:,}", f"{r.counts.no_targets:,}"),
            *(f"{sum(r.bad.values()):,}", f"{r.counts.targets_lost:,}"),
        ]
        for r in reports
    ]
    lines.insert(0, list(_HEADINGS))
    # A column of zeros says nothing: what did not happen is left out.
    shown = [c for c in range(len(_HEADINGS)) if any(line[c] != "0" for line in lines[1:])]
    widths = {c: max(len(line[c]) for line in lines) for c in shown}
    return "\n".join(
        "  ".join(f"{line[c]:<{widths[c]}}" if c == 0 else f"{line[c]:>{widths[c]}}" for c in shown)
        for line in lines
    )
