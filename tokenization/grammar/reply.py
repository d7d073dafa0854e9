"""What a reply is read into, and the error where it is not well formed. Nothing in a reply is ever executed."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from tokenization.conversation import Call

Said = str | Call
"""A stretch of text, or a call."""

LONGEST_CALL = 65_536
"""Characters of one call. What a model writes is bounded before it is looked at; a row of 4096 tokens holds less."""


class CallError(ValueError):
    """A call that cannot be read. `unfinished`: the text ends inside it, so that more of it may mend it."""

    def __init__(self, message: str, *, unfinished: bool = False) -> None:
        super().__init__(message)
        self.unfinished = unfinished


def strict_json(text: str, start: int = 0) -> tuple[Any, int]:
    """The JSON value at `start` and the index after it.

    Raises CallError for what is no JSON: NaN and infinities, a key given twice, nesting beyond Python's own limit,
    integers beyond 4300 digits, half a surrogate pair.
    """
    try:
        value, end = _DECODER.raw_decode(text, start)
        json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        unfinished = error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated string")
        raise CallError(f"no JSON: {error.msg}, character {error.pos + 1}", unfinished=unfinished) from None
    except UnicodeEncodeError:
        raise CallError("half a surrogate pair in a string") from None
    except (ValueError, RecursionError) as error:
        raise CallError(f"no JSON: {error}") from None
    return value, end


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not part of JSON")


def _no_infinity(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"{text} is beyond a float's range")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError("an object has a key twice")
    return value


_DECODER = json.JSONDecoder(
    parse_constant=_no_constant, parse_float=_no_infinity, object_pairs_hook=_unique, strict=False
)
