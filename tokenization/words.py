"""Texts encoded word by word, where that gives the tokenizer's own ids; what was met before is not encoded again.

Llama's tokenizer takes a whole text for one word: spaces are pieces like others, and merges could reach anywhere. But
no piece of its vocabulary holds a space behind another character, or a line end, and a merge makes pieces only. So no
merge reaches over such a place, and the text may be divided there. Words repeat: most of a text is looked up.
Measured on the conversations of `benchmarks/tokenise.py`, words met before cost a fifth of encoding them again.
Whole texts repeat too: what a template writes around a message, system prompts, the tools of a data set.
"""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Callable, Sequence

from tokenizers import Tokenizer

_WORD = re.compile("[ ▁]*[^ ▁\n]+|[ ▁]+|\n")
"""Spaces and what follows them up to the next space; spaces before a line end; a line end."""
_SPACES = " ▁"
_ACROSS = re.compile("[^▁]▁|.(?:\n|<0x0A>)|(?:\n|<0x0A>).", re.DOTALL)
"""In a piece: a space behind another character, or a line end, spelled in its byte or not, beside one."""
ID_SIZE = array("i").itemsize
"""Bytes of an id."""
LONGEST_WORD, _WORDS = 32, 200_000
"""Characters of a word that is kept, and words kept: some 30 MB of English, 200 MB of the worst there can be."""
_TEXTS, _ENTRY = 4_000_000, 100
"""Characters of all texts that are kept, unless one alone has more, and how many more each counts for: some 10 MB of
English, 80 MB of the worst."""


class Words:
    """Texts to ids."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._divides = divides(tokenizer)
        self._words = _Words(tokenizer)
        self._texts = _Texts(self._divided if self._divides else self._whole)

    def ids(self, text: str) -> bytes:
        """The ids of a text `as_bytes`, as the tokenizer gives them."""
        return self._texts[text]

    def across(self, text: str, at: int) -> tuple[int, int]:
        """Where the word begins and ends that holds characters `at` - 1 and `at`; (at, at) where they are of two words.

        Between two words a text may be encoded in two parts. One that may not be divided is one word.
        """
        if not self._divides:
            return 0, len(text)
        before, after = text[at - 1], text[at]
        inside = before in _SPACES
        if before == "\n" or after == "\n" or (after in _SPACES and not inside):
            return at, at
        start = at if inside else 1 + max(text.rfind(space, 0, at) for space in " ▁\n")
        start = len(text[:start].rstrip(_SPACES))
        word = _WORD.match(text, start)
        assert word, "a word begins wherever one does not end"
        return start, word.end()

    def offsets(self, word: str) -> list[tuple[int, int]]:
        """Where each id of a word begins and ends in it, in characters."""
        return self._tokenizer.encode(word, add_special_tokens=False).offsets

    def _divided(self, text: str) -> bytes:
        return b"".join(map(self._words.__getitem__, _WORD.findall(text)))

    def _whole(self, text: str) -> bytes:
        return as_bytes(self._tokenizer.encode(text, add_special_tokens=False).ids)


class _Texts(dict[str, bytes]):
    """The ids of texts met before. Where it is full all go: what repeats is soon there again, and no order of use needs
    to be kept."""

    def __init__(self, encode: Callable[[str], bytes]) -> None:
        self._encode = encode
        self._size = 0

    def __missing__(self, text: str) -> bytes:
        ids = self._encode(text)
        size = len(text) + _ENTRY
        if self._size + size > _TEXTS:
            self.clear()
            self._size = 0
        self._size += size
        self[text] = ids
        return ids


class _Words(dict[str, bytes]):
    """The ids of words met before; a new word is encoded when it is asked for."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenize = tokenizer.model.tokenize

    def __missing__(self, word: str) -> bytes:
        ids = as_bytes([token.id for token in self._tokenize(word.replace(" ", "▁"))])
        if len(word) <= LONGEST_WORD:
            if len(self) >= _WORDS:
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
