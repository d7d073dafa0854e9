"""How far numbers may be from each other, and how far they are."""

from __future__ import annotations

from math import inf, isfinite

LOSS = 1e-6
"""Relative. float32 keeps 6e-8 of a number. Layouts tried differ by 5e-8 at the most, also after updates; a fault as
small as weight decay on the norms too by 9e-6."""
SAMPLE = 1e-5
"""Of the loss of a single sample, which may have few targets for rounding to cancel over."""
NORM = 1e-5
"""Of the gradient norm; sound layouts differ by 2e-7."""
GRADIENT = 1e-4
"""Of a slice of a parameter's gradient, by its own norm. A sum of terms of both signs loses digits: of sound layouts
the worst parameter differs by 1e-6."""
HIDDEN = 1e-6
"""Of hidden states, by the largest of their layer. The same sums in the same order: as a rule nothing differs."""
MOVED = 1e-2
"""By how much a replaced sample must at least change its own hidden states, or else nothing is shown of the others'."""


def relative(found: float | None, expected: float) -> float:
    """How far one number is from another, by that; infinite where it is missing, or one is not finite."""
    if found is None or not isfinite(found) or not isfinite(expected):
        return inf
    return abs(found - expected) / max(abs(expected), 1e-12)


def differs(by: float, limit: float) -> str:
    """In words."""
    return f"differs by {f'{by:.1e}' if by else 0}, limit {limit:.0e}"
