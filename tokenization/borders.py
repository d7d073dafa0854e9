"""Which of a text's spans each token belongs to, where spans begin inside a word."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokenization.sample import SpanKind
from tokenization.segments import Span


class Share(NamedTuple):
    """What a span has of a word."""

    tokens: int
    crossed: bool
    """A token lies across the span's beginning."""


def shares(
    spans: Sequence[tuple[int, bool]], length: int, offsets: Sequence[tuple[int, int]]
) -> tuple[Share, ...]:
    """What each span has of a word of `length` characters.

    spans:   where each begins in the word, the first at its first character, and whether it is CONTROL
    offsets: where each token begins and ends in the word, in characters
    """
    stops = [*(start for start, _ in spans[1:]), length]
    kinds = [SpanKind.CONTROL if control else SpanKind.TEXT for _, control in spans]
    made = [
        Span(start, stop, kind, False) for (start, _), stop, kind in zip(spans, stops, kinds, strict=True)
    ]
    counts = np.bincount(attribute(made, offsets), minlength=len(made)).tolist()  # [spans]
    return tuple(
        Share(count, any(a < span.start < b for a, b in offsets))
        for span, count in zip(made, counts, strict=True)
    )


def attribute(spans: Sequence[Span], offsets: Sequence[tuple[int, int]]) -> NDArray[np.intp]:
    """Which of the spans each stretch of characters `offsets[i] = (start, stop)` belongs to, an index each.

    A token that overlaps a message's content is the content's, even if it takes in the template's space; of two
    contents, the latter's. A token with no characters of its own counts as the character it stands at, and each
    byte of a character as that character.
    """
    edges = np.array(offsets, np.int64).reshape(-1, 2)
    starts = np.minimum(edges[:, 0], spans[-1].stop - 1)
    lasts = np.maximum(edges[:, 1] - 1, starts)
    begins = np.array([span.start for span in spans])
    first = np.searchsorted(begins, starts, side="right") - 1  # [n], the span of a token's first character
    last = np.searchsorted(begins, lasts, side="right") - 1
    content = np.array([-1 if span.kind is SpanKind.CONTROL else at for at, span in enumerate(spans)])
    nearest = np.maximum.accumulate(content)[last]  # the last content span up to the token's last character
    return np.where(nearest >= first, nearest, last)
