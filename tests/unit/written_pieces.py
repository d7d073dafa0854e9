"""A sample as it is written down by hand: pieces of text and control tokens, each with its kind and mask."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest
from sentencepiece import SentencePieceProcessor

from tokenization.sample import SpanKind, TokenizedSample

TOKENIZER = Path(__file__).parents[2].parent / "shared" / "data" / "llama2_tokenizer"
real = pytest.mark.skipif(
    not TOKENIZER.is_dir(), reason="no real data beside the repository (../shared/data)"
)

Piece = tuple[str, SpanKind, bool]
"""A control token or characters, what they are, and whether they are targets."""
Token = tuple[int, SpanKind, bool]


def given(text: str, kind: SpanKind = SpanKind.CONTROL) -> Piece:
    return text, kind, False


def learned(text: str, kind: SpanKind = SpanKind.CONTROL) -> Piece:
    return text, kind, True


@cache
def sentencepiece() -> SentencePieceProcessor:
    return SentencePieceProcessor(model_file=str(TOKENIZER / "tokenizer.model"))


def owned(ids: Sequence[int], text: Sequence[Piece]) -> list[Token]:
    """Llama 2's ids of a text, each with the kind and mask of the content that it has characters of, the last of
    several; one without any belongs to the piece that its last character is in."""
    owners = [piece for piece in text for _ in piece[0].encode()]  # [bytes]
    made: list[Token] = []
    at = 0
    for id in ids:
        word = sentencepiece().id_to_piece(id)
        length = 1 if sentencepiece().is_byte(id) else len(word.replace("▁", " ").encode())
        own = owners[at : at + length]
        content = [piece for piece in own if piece[1] != SpanKind.CONTROL]
        made.append((id, *(content or own)[-1][1:]))
        at += length
    assert at == len(owners)
    return made


def tokens_of(sample: TokenizedSample) -> list[Token]:
    rows = zip(sample.tokens.tolist(), sample.kinds.tolist(), sample.trained.tolist(), strict=True)
    return [(token, SpanKind(kind), trained) for token, kind, trained in rows]
