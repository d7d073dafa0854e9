"""Segments to token ids, each with its mask and kind: made together, here and nowhere else."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer

from tokenization.borders import Share, shares
from tokenization.sample import SpanKind, TokenizedSample
from tokenization.segments import Control, ControlIds, RenderError, Segment, Span, Text
from tokenization.tokenizer_files import prefix_scheme, read_tokenizer, with_prefix
from tokenization.words import ID_SIZE, LONGEST_WORD, Words, as_bytes

_KEPT_SHARES = 50_000
_TRAINED, _KIND = 0x80, np.uint8(0x7F)
_MARKS = [[bytes([kind | trained]) for kind in SpanKind] for trained in (0, _TRAINED)]
"""[trained][kind]: a token's mark, which is its kind and, in the highest bit, whether it is a target."""


class Piece(NamedTuple):
    """Tokens `start` to `stop` (exclusive) and the whole characters they stand for."""

    start: int
    stop: int
    text: str


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
        self._repeated = lru_cache(_KEPT_SHARES)(self._shares)  # words repeat
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
        ids: list[bytes] = []
        marks: list[bytes] = []  # a byte for each token: its kind, and whether it is a target
        for segment in segments:
            if isinstance(segment, Control):
                ids.append(segment.id.to_bytes(ID_SIZE, sys.byteorder))
                marks.append(_MARKS[segment.trained][segment.kind])
            else:
                self._add(segment, ids, marks)
        made = np.frombuffer(b"".join(marks), np.uint8)  # [n]
        if not len(made) or made[0] & _TRAINED:
            # Its logits would have to come from a token before it, and there is none.
            raise AssertionError(f"internal: sample {source}:{id} does not begin with an untrained token")
        return TokenizedSample(
            source=source,
            id=id,
            tokens=np.frombuffer(bytearray().join(ids), np.int32),
            trained=made >= _TRAINED,
            kinds=made & _KIND,
        )

    def ids(self, segments: Sequence[Segment]) -> list[int]:
        """The ids of segments alone: a prompt's."""
        tokens = [as_bytes([s.id]) if isinstance(s, Control) else self._words.ids(s.text) for s in segments]
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

    def _add(self, text: Text, ids: list[bytes], marks: list[bytes]) -> None:
        """Adds the ids of a text, and their marks. Most spans begin with a word and are encoded apart; where some begin
        inside a word, its tokens are looked at.
        """
        if not text.spans:
            return
        at, owner = 0, text.spans[0]  # what stands before `at` is added
        for number, span in enumerate(text.spans[1:], 1):
            if span.start < at:
                continue  # in the word that was looked at last
            start, stop = self._words.across(text.text, span.start)
            if at < start:
                ids.append(self._words.ids(text.text[at:start]))
                marks.append(_MARKS[owner.trained][owner.kind] * (len(ids[-1]) // ID_SIZE))
            if start < stop:
                inside = [s for s in text.spans[number - 1 :] if s.start < stop]
                self._add_word(text, start, stop, inside, ids, marks)
                span = inside[-1]
            at, owner = stop, span
        ids.append(self._words.ids(text.text[at:]))
        marks.append(_MARKS[owner.trained][owner.kind] * (len(ids[-1]) // ID_SIZE))

    def _add_word(
        self, text: Text, start: int, stop: int, spans: Sequence[Span], ids: list[bytes], marks: list[bytes]
    ) -> None:
        """The same for the word from `start` to `stop`, in which `spans` lie, the first from its beginning."""
        word = text.text[start:stop]
        begins = tuple((max(s.start - start, 0), s.kind is SpanKind.CONTROL) for s in spans)
        found = (self._repeated if len(word) <= LONGEST_WORD else self._shares)(word, begins)
        if any(s.start == text.prompt_end and share.crossed for s, share in zip(spans, found, strict=True)):
            raise RenderError(
                "a token reaches from the prompt into the assistant's turn, so that training and serving would "
                "differ; use another data.template"
            )
        ids.append(self._words.ids(word))
        marks += [_MARKS[s.trained][s.kind] * share.tokens for s, share in zip(spans, found, strict=True)]

    def _shares(self, word: str, begins: tuple[tuple[int, bool], ...]) -> tuple[Share, ...]:
        return shares(begins, len(word), self._words.offsets(word))

    def _id(self, token: str) -> int:
        id = self._tokenizer.token_to_id(token)
        if id is None:
            raise ValueError(
                f"token {token!r} is not in the vocabulary of {self.vocab_size} tokens; "
                "name the tokenizer's own in tokenizer_config.json (bos_token, eos_token, pad_token)"
            )
        return id
