"""What a template makes of a conversation: texts to encode and control tokens, with kinds and mask."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from tokenization.sample import SpanKind


class RenderError(ValueError):
    """A conversation that the template has no way to write."""


@dataclass(frozen=True)
class ControlIds:
    """Ids a template puts in as they are; no text is ever encoded into one of them."""

    bos: int
    eos: int
    special: Mapping[str, int] = field(default_factory=dict)
    """The template's own control tokens, such as `<|user|>`."""

    def __getitem__(self, token: str) -> int:
        return self.special[token]


class Span(NamedTuple):
    """Characters `start` to `stop` (exclusive) of a text: what they are, and are they targets?"""

    start: int
    stop: int
    kind: SpanKind
    trained: bool


class Text(NamedTuple):
    """Characters encoded as one string, which goes on after what stands before it: the encoder puts no space in
    front. The spans ascend and cover every character once."""

    text: str
    spans: tuple[Span, ...]
    prompt_end: int | None = None
    """Where a prompt ends inside this text, so that no token may reach over it; mostly it ends before or after."""


class Control(NamedTuple):
    """One control token."""

    id: int
    kind: SpanKind = SpanKind.CONTROL
    trained: bool = False


Segment = Text | Control
Part = tuple[str, SpanKind, bool]
"""Characters, what they are, and whether they are targets."""


def joined(*parts: Part) -> Text:
    """One text out of parts. The spans follow from the parts' lengths; like neighbours make one span."""
    spans: list[Span] = []
    stop = 0
    for characters, kind, trained in parts:
        if characters:
            start, stop = stop, stop + len(characters)
            if spans and spans[-1].kind == kind and spans[-1].trained == trained:
                start = spans.pop().start
            spans.append(Span(start, stop, kind, trained))
    return Text("".join([characters for characters, _, _ in parts]), tuple(spans))


def markup(text: str, trained: bool = False) -> Part:
    """Characters of the template's own; `trained` where the model must generate them."""
    return text, SpanKind.CONTROL, trained


def interleaved(separator: str, groups: Iterable[Iterable[Part]], trained: bool = False) -> list[Part]:
    """The parts of all groups, `separator` between one group and the next, a target where the next one begins
    with a target."""
    parts: list[Part] = []
    for group in map(list, groups):
        if parts and group:
            parts.append(markup(separator, trained or group[0][2]))
        parts += group
    return parts
