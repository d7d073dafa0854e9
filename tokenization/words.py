"""Texts encoded word by word, where that gives the tokenizer's own ids; a word met before is not encoded again.

Llama's tokenizer takes a whole text for one word: spaces are pieces like others, and merges could reach anywhere. But
no piece of its vocabulary holds a space behind another character, or a line end, and a merge makes pieces only. So no
merge reaches over such a place, and the text may be divided there. Words repeat: most of a text is looked up.
Measured on the conversations of `benchmarks/tokenise.py`, words met before cost a fifth of encoding them again.
"""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Sequence

from tokenizers import Tokenizer

_WORD = re.compile("[ ▁]*[^ ▁\n]+|[ ▁]+|\n")
"""Spaces and what follows them up to the next space; spaces before a line end; a line end."""
_ACROSS = re.compile("[^▁]▁|.(?:\n|<0x0A>)|(?:\n|<0x0A>).", re.DOTALL)
"""In a piece: a space behind another character, or a line end, spelled in its byte or not, beside one."""
ID_SIZE = array("i").itemsize
"""Bytes of an id."""
_LONGEST, _MOST = 32, 200_000
"""Characters of a word that is kept, and words kept: some 30 MB of English, 200 MB of the worst there can be."""


class Words:
    """The words of texts and their ids."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._divides = divides(tokenizer)
        self._known = _Known(tokenizer)

    def split(self, text: str) -> list[str]:
        """The words, which join to the text; a text that may not be divided is one word."""
        if self._divides:
            return _WORD.findall(text)
        return [text] if text else []

    def ids(self, words: Sequence[str]) -> list[bytes]:
        """The ids of each word, `as_bytes`, as the tokenizer gives them for the text the words are of."""
        if self._divides:
            return list(map(self._known.__getitem__, words))
        return [as_bytes(self._tokenizer.encode(word, add_special_tokens=False).ids) for word in words]

    def offsets(self, word: str) -> list[tuple[int, int]]:
        """Where each id of a word begins and ends in it, in characters."""
        return self._tokenizer.encode(word, add_special_tokens=False).offsets


class _Known(dict[str, bytes]):
    """The ids of words met before; a new word is encoded when it is asked for."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._model = tokenizer.model

    def __missing__(self, word: str) -> bytes:
        ids = as_bytes([token.id for token in self._model.tokenize(word.replace(" ", "▁"))])
        if len(word) <= _LONGEST:
            if len(self) >= _MOST:
                self.clear()
            self[word] = ids
        return ids


def as_bytes(ids: Sequence[int]) -> bytes:
    """Ids as int32 of this machine, less than half the memory of a tuple of numbers."""
    return array("i", ids).tobytes()


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
    alphabet = ("▁", *(f"<0x{byte:02X}>" for byte in range(256)))
    spelled = model.get("byte_fallback") and all(map(vocabulary.__contains__, alphabet))
    if not (plain and spaces and spelled) or state["normalizer"] or model.get("ignore_merges"):
        return False
    in_text = any(not token["special"] for token in state["added_tokens"])
    return not in_text and not any(map(_ACROSS.search, vocabulary))
