"""Segments to token ids, each with its mask and kind: made together, here and nowhere else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from tokenization.sample import SpanKind, TokenizedSample
from tokenization.segments import Control, ControlIds, Segment, Text
from tokenization.tokenizer_files import read_tokenizer


class Piece(NamedTuple):
    """Tokens `start` to `stop` (exclusive) and the whole characters they stand for."""

    start: int
    stop: int
    text: str


class Encoder:
    """A tokenizer that reads data as plain text: no string in it ever becomes a control token.

    vocab_size: largest id + 1
    bos, eos:   ids that open and end a turn
    pad_id:     the tokenizer's pad token, else its unknown token, else 0. Any id will do to fill a row's end:
                padding is never a label and no token of a sample attends to it.
    """

    def __init__(
        self, tokenizer: Tokenizer, *, bos: str = "<s>", eos: str = "</s>", pad: str | None = None
    ) -> None:
        """Takes `tokenizer` over: its settings for truncation, padding and special tokens are replaced.

        Raises ValueError where `bos`, `eos` or a given `pad` is not in the vocabulary, or where the tokenizer
        turns plain text into bos or eos.
        """
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = True
        self._tokenizer = tokenizer
        self.vocab_size: int = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
        self.bos: int = self._id(bos)
        self.eos: int = self._id(eos)
        self.pad_id: int = self._id(pad) if pad is not None else tokenizer.token_to_id("<unk>") or 0
        if {self.bos, self.eos} & set(tokenizer.encode(f"{bos} {eos}", add_special_tokens=False).ids):
            raise ValueError(
                f"the tokenizer reads {bos!r} or {eos!r} in a text as a control token; "
                'mark both "special": true among the added_tokens of tokenizer.json'
            )

    @classmethod
    def from_folder(cls, path: str | Path) -> Encoder:
        """The tokenizer of a model or tokenizer folder, or of a lone tokenizer.json or tokenizer.model.

        Raises ValueError, with the remedy, where there is none or it cannot be read.
        """
        tokenizer, names = read_tokenizer(Path(path))
        try:
            return cls(tokenizer, bos=names.bos, eos=names.eos, pad=names.pad)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    @property
    def control(self) -> ControlIds:
        return ControlIds(bos=self.bos, eos=self.eos)

    def encode(self, segments: Sequence[Segment], source: str, id: str) -> TokenizedSample:
        """The sample of a rendered conversation: each text is encoded on its own and nothing is added."""
        texts = [segment.text for segment in segments if isinstance(segment, Text)]
        encodings = iter(self._tokenizer.encode_batch(texts, add_special_tokens=False))
        tokens: list[int] = []
        trained: list[bool] = []
        kinds: list[int] = []
        turn_ends: list[int] = []
        for segment in segments:
            if isinstance(segment, Control):
                tokens.append(segment.id)
                trained.append(segment.trained)
                kinds.append(segment.kind)
                if segment.ends_turn:
                    turn_ends.append(len(tokens))
            else:
                encoding = next(encodings)
                tokens += encoding.ids
                text_kinds, text_trained = attribute(segment, encoding.offsets)
                kinds += text_kinds
                trained += text_trained
        if not tokens or trained[0]:
            # Its logits would have to come from a token before it, and there is none.
            raise AssertionError(f"internal: sample {source}:{id} does not begin with an untrained token")
        return TokenizedSample(
            source=source,
            id=id,
            tokens=np.array(tokens, np.int32),
            trained=np.array(trained, np.bool_),
            kinds=np.array(kinds, np.uint8),
            turn_ends=tuple(turn_ends),
        )

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

    def _id(self, token: str) -> int:
        id = self._tokenizer.token_to_id(token)
        if id is None:
            raise ValueError(
                f"token {token!r} is not in the vocabulary of {self.vocab_size} tokens; "
                "name the tokenizer's own in tokenizer_config.json (bos_token, eos_token, pad_token)"
            )
        return id


def attribute(text: Text, offsets: Sequence[tuple[int, int]]) -> tuple[list[int], list[bool]]:
    """Kind and mask of each token of a text, from its characters `offsets[i] = (start, stop)`.

    A token that overlaps a message's content is the content's, even if it takes in the template's space.
    A token with no characters of its own (the space put before a text) counts as the character it stands at,
    and each byte of a character as that character.
    """
    if len(text.spans) == 1:
        only = text.spans[0]
        return [int(only.kind)] * len(offsets), [only.trained] * len(offsets)
    kinds = np.full(len(offsets), SpanKind.CONTROL, np.uint8)
    trained = np.zeros(len(offsets), np.bool_)
    edges = np.array(offsets, np.int64).reshape(-1, 2)
    starts = np.minimum(edges[:, 0], len(text.text) - 1)
    stops = np.maximum(edges[:, 1], starts + 1)
    for span in text.spans:
        if span.kind is not SpanKind.CONTROL:
            inside = (starts < span.stop) & (stops > span.start)
            kinds[inside] = span.kind
            trained[inside] = span.trained
    return kinds.tolist(), trained.tolist()
