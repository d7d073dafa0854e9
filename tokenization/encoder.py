"""Segments to token ids, each with its mask and kind: made together, here and nowhere else."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import accumulate, pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer

from tokenization.sample import SpanKind, TokenizedSample
from tokenization.segments import Control, ControlIds, RenderError, Segment, Span, Text
from tokenization.tokenizer_files import prefix_scheme, read_tokenizer, with_prefix
from tokenization.words import ID_SIZE, Words, as_bytes

_KEPT_BORDERS = 50_000


class Piece(NamedTuple):
    """Tokens `start` to `stop` (exclusive) and the whole characters they stand for."""

    start: int
    stop: int
    text: str


class Border(NamedTuple):
    """Where a span begins inside a word."""

    tokens: int
    """Of the word, those that are the span's or a later one's."""
    crossed: bool
    """A token lies across it."""


class Encoder:
    """A tokenizer that reads data as plain text: no string in it ever becomes a control token, and nothing is put
    before or after it.

    vocab_size: largest id + 1, tokens that were added included
    own_size:   the same before they were added
    bos, eos:   ids that open and end a turn
    special:    ids of the template's other control tokens
    pad_id:     the tokenizer's pad token, else its unknown token, else 0. Any id will do to fill a row's end:
                padding is never a label and no token of a sample attends to it.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        bos: str = "<s>",
        eos: str = "</s>",
        pad: str | None = None,
        special: Sequence[str] = (),
        own_prefix: bool = False,
    ) -> None:
        """Works on a copy of `tokenizer`; the `special` tokens it lacks are added at its end.

        `own_prefix` leaves a tokenizer that puts a space before every stretch between control tokens to do so: a
        template that is rendered by transformers counts on it.

        Raises ValueError where `bos`, `eos` or a given `pad` is not in the vocabulary, or where the tokenizer
        turns plain text into a control token.
        """
        if not (own_prefix and prefix_scheme(tokenizer) == "always"):
            tokenizer = with_prefix(tokenizer, "never")
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self.own_size: int = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
        lacking = [token for token in special if tokenizer.token_to_id(token) is None]
        tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in lacking])
        self.vocab_size: int = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
        self.bos: int = self._id(bos)
        self.eos: int = self._id(eos)
        self.pad_id: int = self._id(pad) if pad is not None else tokenizer.token_to_id("<unk>") or 0
        self.special: Mapping[str, int] = {token: self._id(token) for token in special}
        tokenizer.encode_special_tokens = True
        self._words = Words(tokenizer)
        self._inside = lru_cache(_KEPT_BORDERS)(self._borders)  # words repeat
        control = {bos: self.bos, eos: self.eos, **self.special}
        for token, id in control.items():
            if id in tokenizer.encode(f"a {token} b", add_special_tokens=False).ids:
                raise ValueError(
                    f"the tokenizer reads {token!r} in a text as a control token; "
                    'mark it "special": true among the added_tokens of tokenizer.json'
                )

    @classmethod
    def from_folder(cls, path: str | Path, special: Sequence[str] = ()) -> Encoder:
        """The tokenizer of a model or tokenizer folder, or of a lone tokenizer.json or tokenizer.model.

        Raises ValueError, with the remedy, where there is none or it cannot be read.
        """
        tokenizer, names = read_tokenizer(Path(path))
        try:
            return cls(tokenizer, bos=names.bos, eos=names.eos, pad=names.pad, special=special)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    @property
    def control(self) -> ControlIds:
        return ControlIds(self.bos, self.eos, self.special)

    def state(self) -> str:
        """The tokenizer and its control tokens as text: equal texts encode alike."""
        return json.dumps([self._tokenizer.to_str(), self.bos, self.eos, dict(self.special)])

    def encode(self, segments: Sequence[Segment], source: str, id: str) -> TokenizedSample:
        """The sample of a rendered conversation: each text is encoded on its own and nothing is added.

        Raises RenderError where a token lies across the end of a prompt.
        """
        tokens: list[bytes] = []
        kinds: list[int] = []  # [runs]: tokens in a row of one span are a run
        trained: list[bool] = []
        counts: list[int] = []
        for segment in segments:
            if isinstance(segment, Control):
                tokens.append(as_bytes([segment.id]))
                kinds.append(segment.kind)
                trained.append(segment.trained)
                counts.append(1)
                continue
            words = self._words.split(segment.text)
            ids = self._words.ids(words)
            tokens += ids
            kinds += [span.kind for span in segment.spans]
            trained += [span.trained for span in segment.spans]
            counts += self._counts(segment, words, ids)
        if not tokens or trained[0]:
            # Its logits would have to come from a token before it, and there is none.
            raise AssertionError(f"internal: sample {source}:{id} does not begin with an untrained token")
        return TokenizedSample(
            source=source,
            id=id,
            tokens=np.frombuffer(bytearray().join(tokens), np.int32),
            trained=np.repeat(np.array(trained, np.bool_), counts),
            kinds=np.repeat(np.array(kinds, np.uint8), counts),
        )

    def ids(self, segments: Sequence[Segment]) -> list[int]:
        """The ids of segments alone: a prompt's."""
        tokens: list[bytes] = []
        for segment in segments:
            if isinstance(segment, Control):
                tokens.append(as_bytes([segment.id]))
            else:
                tokens += self._words.ids(self._words.split(segment.text))
        return np.frombuffer(b"".join(tokens), np.int32).tolist()

    def decode(self, ids: Sequence[int] | NDArray[np.int32]) -> str:
        """The text of the ids, control tokens written out."""
        return self._tokenizer.decode([int(token) for token in ids], skip_special_tokens=False)

    def pieces(self, ids: Sequence[int] | NDArray[np.int32]) -> list[Piece]:
        """The ids in groups that stand for whole characters; the groups' texts join to `decode(ids)`.

        A group is one token, or the several tokens whose bytes make up one character.
        """
        ids = [int(token) for token in ids]
        pieces: list[Piece] = []
        context = start = 0
        for stop in range(1, len(ids) + 1):
            # A decoder drops the space of the first token it is given, so the group before goes along.
            text = self.decode(ids[context:stop])
            if text.endswith("\ufffd") and stop < len(ids):
                continue
            pieces.append(Piece(start, stop, text[len(self.decode(ids[context:start])) :]))
            context, start = start, stop
        return pieces

    def texts(self, ids: Sequence[int], joint: str | None = None) -> list[str]:
        """What a model generated as text, in the parts that `joint` tokens leave; a space at the start is kept."""
        parts: list[list[int]] = [[]]
        for id in ids:
            if joint is not None and id == self.special[joint]:
                parts.append([])
            else:
                parts[-1].append(id)
        before = len(self.decode([self.bos]))
        return [self.decode([self.bos, *part])[before:] for part in parts]

    def _counts(self, text: Text, words: Sequence[str], ids: Sequence[bytes]) -> list[int]:
        """Tokens of each span of a text. Most spans begin with a word; where some begin inside a word, the word's
        tokens are looked at, once."""
        if len(text.spans) < 2:
            return [sum(map(len, ids)) // ID_SIZE for _ in text.spans]
        token_ends, word_ends = list(accumulate(map(len, ids))), list(accumulate(map(len, words)))
        before: list[int] = []  # [spans], bytes of the ids of the spans before it
        inside: list[Border] = []  # of the spans that begin inside the word that was looked at last
        looked_at = -1
        for number, span in enumerate(text.spans):
            word = bisect_left(word_ends, span.start)
            if span.start in (0, word_ends[word]):
                before.append(token_ends[word] if span.start else 0)
                continue
            if word != looked_at:
                looked_at, start, stop = word, word_ends[word] - len(words[word]), word_ends[word]
                begun = [s for s in text.spans[number - 1 :] if s.start < stop]
                spans = tuple((max(s.start - start, 0), s.kind is SpanKind.CONTROL) for s in begun)
                inside = list(self._inside(words[word], spans, stop == word_ends[-1]))
            border = inside.pop(0)
            before.append(token_ends[word] - border.tokens * ID_SIZE)
            if span.start == text.prompt_end and border.crossed:
                raise RenderError(
                    "a token reaches from the prompt into the assistant's turn, so that training and serving would "
                    "differ; use another data.template"
                )
        return [(b - a) // ID_SIZE for a, b in pairwise([*before, token_ends[-1]])]

    def _borders(self, word: str, spans: tuple[tuple[int, bool], ...], last: bool) -> tuple[Border, ...]:
        """Where the tokens of a word fall, for each span that begins inside it.

        spans: where each span begins, the first at or before the word's first character, and whether it is CONTROL
        last:  nothing comes after the word
        """
        offsets = self._words.offsets(word)
        stops = [*(start for start, _ in spans[1:]), len(word) + (not last)]
        kinds = [SpanKind.CONTROL if control else SpanKind.TEXT for _, control in spans]
        made = [
            Span(start, stop, kind, False) for (start, _), stop, kind in zip(spans, stops, kinds, strict=True)
        ]
        owners = attribute(made, offsets)
        return tuple(
            Border(
                int(np.count_nonzero(owners >= number)), any(a < made[number].start < b for a, b in offsets)
            )
            for number in range(1, len(made))
        )

    def _id(self, token: str) -> int:
        id = self._tokenizer.token_to_id(token)
        if id is None:
            raise ValueError(
                f"token {token!r} is not in the vocabulary of {self.vocab_size} tokens; "
                "name the tokenizer's own in tokenizer_config.json (bos_token, eos_token, pad_token)"
            )
        return id


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
