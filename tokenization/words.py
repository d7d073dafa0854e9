"""Texts encoded word by word, where that gives the tokenizer's own ids; a word met before is not encoded again.

Llama's tokenizer takes a whole text for one word: spaces are pieces like others, and merges could reach anywhere. But
no piece of its vocabulary holds a space behind another character, or a line end, and a merge makes pieces only. So no
merge reaches over such a place, and the text may be divided there. Words repeat: most of a text is looked up.
Measured on the conversations of `benchmarks/tokenise.py`, words met before cost a fifth of encoding them again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from tokenizers import Tokenizer

_WORD = re.compile("[ ▁]*[^ ▁\n]+|[ ▁]+|\n")
"""Spaces and what follows them up to the next space; spaces before a line end; a line end."""
_ACROSS = re.compile("[^▁]▁|\n.|.\n", re.DOTALL)
_LONGEST, _MOST = 64, 200_000
"""Characters of a word that is kept, and words kept: some 60 MB at most."""


class Words:
    """The words of texts and their ids."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._divides = divides(tokenizer)
        self._known: dict[str, tuple[int, ...]] = {}

    def split(self, text: str) -> list[str]:
        """The words, which join to the text; a text that may not be divided is one word."""
        if self._divides:
            return _WORD.findall(text)
        return [text] if text else []

    def ids(self, words: Sequence[str]) -> list[tuple[int, ...]]:
        """The ids of each word, as the tokenizer gives them for the text the words are of."""
        found = list(map(self._known.get, words))
        if None not in found:
            return found  # pyright: ignore[reportReturnType]
        return [self._encoded(word) if ids is None else ids for word, ids in zip(words, found, strict=True)]

    def offsets(self, word: str) -> list[tuple[int, int]]:
        """Where each id of a word begins and ends in it, in characters."""
        return self._tokenizer.encode(word, add_special_tokens=False).offsets

    def _encoded(self, word: str) -> tuple[int, ...]:
        if not self._divides:
            return tuple(self._tokenizer.encode(word, add_special_tokens=False).ids)
        if (known := self._known.get(word)) is not None:  # an earlier word of the same text
            return known
        ids = tuple([token.id for token in self._tokenizer.model.tokenize(word.replace(" ", "▁"))])
        if len(word) <= _LONGEST:
            if len(self._known) >= _MOST:
                self._known.clear()
            self._known[word] = ids
        return ids


def divides(tokenizer: Tokenizer) -> bool:
    """Whether texts may be encoded word by word.

    The tokenizer must be BPE that spells unknown characters in bytes, write spaces as "▁" and change nothing else, and
    have no piece that reaches from one word into the next. Added tokens that are found in texts are pieces too.
    """
    state = json.loads(tokenizer.to_str())
    model, pre = state["model"], state["pre_tokenizer"] or {}
    plain = model["type"] == "BPE" and not (
        model.get("dropout") or model.get("continuing_subword_prefix") or model.get("end_of_word_suffix")
    )
    spaces = pre.get("type") == "Metaspace" and pre["prepend_scheme"] == "never" and not pre["split"]
    vocabulary = model.get("vocab", {})
    spelled = model.get("byte_fallback") and all(f"<0x{byte:02X}>" in vocabulary for byte in range(256))
    if not (plain and spaces and spelled) or state["normalizer"] or model.get("ignore_merges"):
        return False
    in_text = any(not token["special"] for token in state["added_tokens"])
    return not in_text and not any(map(_ACROSS.search, vocabulary))
