"""Samples as a person or a script reads them. Pure: every function returns a string and prints nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from html import escape
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from tokenization.encoder import Encoder, Piece
from tokenization.sample import SpanKind, TokenizedSample

IGNORED = -100
"""Label of a token that is no target, as in transformers."""

NAMES = {kind: kind.name.lower().replace("_", " ") for kind in SpanKind}
"""What a person reads."""

TARGET_COLOURS = {
    SpanKind.CONTROL: "35",
    SpanKind.SYSTEM: "36",
    SpanKind.USER: "33",
    SpanKind.TEXT: "32",
    SpanKind.CALL_NAME: "1;34",
    SpanKind.ARGUMENTS: "34",
    SpanKind.CODE: "96",
    SpanKind.OBSERVATION: "93",
    SpanKind.STOP: "1;31",
}
"""ANSI colour of a target by its kind; what is no target is dimmed."""
_DIM = "2"

_PAINT = {
    SpanKind.CONTROL: "#e6ccff",
    SpanKind.SYSTEM: "#b3ecff",
    SpanKind.USER: "#ffe9a8",
    SpanKind.TEXT: "#bfeebf",
    SpanKind.CALL_NAME: "#9fc3ff",
    SpanKind.ARGUMENTS: "#cfe0ff",
    SpanKind.CODE: "#a8ece4",
    SpanKind.OBSERVATION: "#ffd6a8",
    SpanKind.STOP: "#ffb3b3",
}
"""A target's background on the page; what is no target has its kind's colour as a line under it."""

_STYLE = """
body { font: 14px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 70em; padding: 0 1em; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; border: 1px solid #ccc; padding: 1em; color: #777; }
pre, .key { line-height: 1.7; } .key span { padding: 0 .4em; margin-right: .4em; color: #777; white-space: nowrap; }
span.target, .key span.target { color: #000; border-radius: 2px; }
pre span:hover { outline: 1px solid #000; }
""" + "".join(
    f".{kind.name.lower()} {{ border-bottom: 2px solid {colour}; }} "
    f".target.{kind.name.lower()} {{ background: {colour}; }}\n"
    for kind, colour in _PAINT.items()
)


def to_json(sample: TokenizedSample) -> str:
    """One line: source, id, tokens, and labels of the same length, not shifted, -100 where not a target."""
    labels = np.where(sample.trained, sample.tokens, IGNORED)
    fields = {"source": sample.source, "id": sample.id}
    return json.dumps({**fields, "tokens": sample.tokens.tolist(), "labels": labels.tolist()})


def row_to_json(
    row: int,
    samples: Iterable[tuple[str, str]],
    tokens: NDArray[np.int32],
    labels: NDArray[np.int32],
    positions: NDArray[np.int32],
) -> str:
    """One line for a packed row: its index, its samples as source and id, and its arrays, int [s] each."""
    names = [f"{source}:{id}" for source, id in samples]
    arrays = {"tokens": tokens.tolist(), "labels": labels.tolist(), "positions": positions.tolist()}
    return json.dumps({"row": row, "samples": names, **arrays})


def to_terminal(sample: TokenizedSample, encoder: Encoder, colour: bool) -> str:
    """A heading line and the text.

    With colour, targets are coloured by kind and the rest is dim; without, targets stand in ⟦ ⟧. Line ends
    and tabs stay; other control characters are written as escapes, so that no data can steer the terminal.
    """
    body: list[str] = []
    for (kind, trained), pieces in _runs(sample, encoder):
        text = _visible("".join(piece.text for piece in pieces))
        if colour:
            code = TARGET_COLOURS[kind] if trained else _DIM
            # Each line is coloured for itself: pagers forget colours at the end of a line.
            body.append("\n".join(f"\x1b[{code}m{line}\x1b[0m" if line else "" for line in text.split("\n")))
        else:
            body.append(f"⟦{text}⟧" if trained else text)
    heading = _visible(_heading(sample))
    return f"\x1b[1m{heading}\x1b[0m\n{''.join(body)}\n" if colour else f"{heading}\n{''.join(body)}\n"


def to_html(samples: Sequence[TokenizedSample], encoder: Encoder) -> str:
    """One page that needs nothing else: targets on the colour of their kind, the rest grey with a line of that colour
    under it; ids and kind shown on hovering."""
    legend = "".join(
        f'<span class="target {kind.name.lower()}">{name}</span><span class="{kind.name.lower()}">{name}</span>'
        for kind, name in NAMES.items()
    )
    sections = "\n".join(_section(sample, encoder) for sample in samples)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"<title>Samples</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f'<p class="key">Each kind as a target, and as what is no target: {legend}</p>\n{sections}\n</body>\n</html>\n'
    )


def _section(sample: TokenizedSample, encoder: Encoder) -> str:
    spans: list[str] = []
    for (kind, trained), pieces in _runs(sample, encoder):
        name = f"target {kind.name.lower()}" if trained else kind.name.lower()
        for piece in pieces:
            ids = " ".join(str(id) for id in sample.tokens[piece.start : piece.stop].tolist())
            spans.append(
                f'<span class="{name}" title="{NAMES[kind]} {ids}">{escape(_visible(piece.text))}</span>'
            )
    return f"<h2>{escape(_visible(_heading(sample)))}</h2>\n<pre>{''.join(spans)}</pre>"


def _heading(sample: TokenizedSample) -> str:
    sizes = f"tokens {len(sample)}  targets {sample.targets}  turns {sample.turns}"
    return f"{sample.source}:{sample.id}  {sizes}"


def _runs(
    sample: TokenizedSample, encoder: Encoder
) -> Iterable[tuple[tuple[SpanKind, bool], Iterable[Piece]]]:
    """The sample's pieces, grouped while kind and mask stay the same."""

    def mark(piece: Piece) -> tuple[SpanKind, bool]:
        return SpanKind(sample.kinds[piece.start]), bool(sample.trained[piece.start])

    return groupby(encoder.pieces(sample.tokens), key=mark)


def _visible(text: str) -> str:
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", lambda found: f"\\x{ord(found[0]):02x}", text)
