"""What a template makes of a conversation: texts to encode and control tokens, with kinds and mask."""

from __future__ import annotations

from dataclasses import dataclass

from tokenization.sample import SpanKind


@dataclass(frozen=True)
class ControlIds:
    """Ids a template puts in as they are; no text is ever encoded into one of them."""

    bos: int
    eos: int


@dataclass(frozen=True)
class Span:
    """Characters `start` to `stop` (exclusive) of a text: what they are, and are they targets?"""

    start: int
    stop: int
    kind: SpanKind
    trained: bool


@dataclass(frozen=True)
class Text:
    """Characters encoded on their own, as one string. The spans ascend and cover every character once."""

    text: str
    spans: tuple[Span, ...]


@dataclass(frozen=True)
class Control:
    """One control token."""

    id: int
    kind: SpanKind
    trained: bool = False
    ends_turn: bool = False
    """A turn is complete after this token: a sample that is too long may be cut here."""


Segment = Text | Control


def joined(*parts: tuple[str, SpanKind, bool]) -> Text:
    """One text out of (characters, kind, trained) parts; the spans follow from the parts' lengths."""
    spans: list[Span] = []
    start = 0
    for characters, kind, trained in parts:
        stop = start + len(characters)
        if stop > start:
            spans.append(Span(start, stop, kind, trained))
        start = stop
    return Text("".join(characters for characters, _, _ in parts), tuple(spans))
