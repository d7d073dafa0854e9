"""What a reply is read into, the error where it is not well formed, and what a call must be to be read back.

Nothing in a reply is ever executed.
"""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

from tokenization.conversation import Call
from tokenization.segments import RenderError

Said = str | Call
"""A stretch of text, or a call."""

LONGEST_CALL = 65_536
"""Characters of one call, or of all calls in a turn with what stands between them. What a model writes is bounded
before it is looked at; a row of 4096 tokens holds less."""

DEEPEST = 64
"""Levels of lists and objects in one argument."""

# The end of a text that breaks off inside a JSON value, from where the decoder finds fault with it.
_CUT = re.compile(r"(?:-|[.]|[eE][+-]?|u[0-9a-fA-F]{0,4}|tr?u?|fa?l?s?|nu?l?|[ \t\r\n]*)\Z")


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
        unfinished = error.msg.startswith("Unterminated string") or bool(_CUT.match(text, error.pos))
        raise CallError(f"no JSON: {error.msg}, character {error.pos + 1}", unfinished=unfinished) from None
    except UnicodeEncodeError:
        raise CallError("half a surrogate pair in a string") from None
    except RecursionError:
        raise CallError("no JSON: nested too deep to be read") from None
    except ValueError as error:
        raise CallError(f"no JSON: {error}") from None
    return value, end


def check_call(call: Call) -> None:
    """Raises RenderError for a call that no grammar could read back: without a name, with half a surrogate pair,
    nested deeper than DEEPEST."""
    if not call.name:
        raise RenderError("a call has no name; give it the tool's")
    try:
        call.name.encode()
        call.arguments.encode()
    except UnicodeEncodeError:
        raise RenderError(
            f"the call of {call.name[:60]!r} holds half a surrogate pair; write the whole character"
        ) from None
    if deeper(call.values, DEEPEST + 1):
        raise RenderError(
            f"the arguments of {call.name[:60]!r} are nested deeper than {DEEPEST} levels; flatten them"
        )


def check_length(length: int, what: str) -> None:
    """Raises RenderError for more characters of calls than would be read back."""
    if length > LONGEST_CALL:
        raise RenderError(
            f"{what} would have {length} characters, and at most {LONGEST_CALL} are read back; shorten it"
        )


def deeper(value: object, levels: int) -> bool:
    """Do lists and objects nest deeper than so many levels? The recursion ends there too."""
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list):
        return False
    return levels == 0 or any(deeper(item, levels - 1) for item in value)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not part of JSON")


def _no_infinity(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"{text[:40]} is beyond a float's range")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError("an object has a key twice")
    return value


_DECODER = json.JSONDecoder(
    parse_constant=_no_constant, parse_float=_no_infinity, object_pairs_hook=_unique, strict=False
)
