r"""Python literals, as far as JSON has a counterpart for them, read by hand: nothing is evaluated.

Strings in single or double quotes with Python's escapes (but for `\N{…}`), decimal integers and floats, True, False
and None (also as JSON spells them), lists, and dicts with strings as keys. A reader takes a text and an index, and
gives the value and the index after it; it takes time linear in what it reads.
"""

from __future__ import annotations

import math
import re
from typing import Any

from tokenization.grammar.reply import DEEPEST, CallError

_WORDS = {"True": True, "False": False, "None": None, "true": True, "false": False, "null": None}
_ESCAPES = dict(zip("\\'\"abfnrtv", "\\'\"\a\b\f\n\r\t\v", strict=True))

WHITE = " \t\r\n\f"
_SPACE = re.compile(rf"[{WHITE}]*")
_COMMA = re.compile(rf"[{WHITE}]*+,[{WHITE}]*+")
_KEY = re.compile(r"""[^\s,:=()\[\]{}'"*#`]+""")
# A string as far as the quote that ends it: no line end, and a backslash takes the character after it along.
_SINGLE, _DOUBLE = (rf"{q}[^{q}\\\r\n]*+(?:\\(?:\r\n|.)[^{q}\\\r\n]*+)*+" for q in "'\"")
_LITERAL = re.compile(
    rf"""(?P<string>{_SINGLE}'|{_DOUBLE}")
    |(?P<float>-?(?:(?:[0-9]++[.][0-9]*+|[.][0-9]++)(?:[eE][+-]?[0-9]++)?|[0-9]++[eE][+-]?[0-9]++))
    |(?P<int>-?(?:0++|[1-9][0-9]*+)(?![0-9]))
    |(?P<open>[\[{{])[{WHITE}]*+
    |(?P<word>\w++)""",
    re.DOTALL | re.VERBOSE,
)
_ESCAPE = re.compile(
    r"\\(?:(?P<end>\r\n|[\r\n])|(?P<octal>[0-7]{1,3})|x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))",
    re.DOTALL,
)
# The end of a text that breaks off inside a call, from where the reader finds fault with it.
_CUT = re.compile(
    rf"(?:{_SINGLE}\\?|{_DOUBLE}\\?|-?[.]?|[eE][+-]?|[*]|Tr?u?|Fa?l?s?|No?n?|tr?u?|fa?l?s?|nu?l?)\Z",
    re.DOTALL,
)


def keywords(text: str, at: int) -> tuple[dict[str, Any], int]:
    """The keyword arguments after `(`, `name=value` or `**{…}`, and the index after `)`.

    Raises CallError for anything else, for a name given twice, and for lists and dicts nested deeper than DEEPEST.
    Half a surrogate pair is read: whoever writes the values out has to look for it.
    """
    values: dict[str, Any] = {}
    at = skip(text, at)
    while not text.startswith(")", at):
        if text.startswith("**", at):
            at = skip(text, at + 2)
            if not text.startswith("{", at):
                raise fault(text, at, "a dict")
            more, at = _dict(text, skip(text, at + 1), DEEPEST)
        else:
            key = _KEY.match(text, at)
            equals = skip(text, key.end()) if key else at
            if not key or not key[0].isidentifier() or not text.startswith("=", equals):
                raise fault(text, equals if key else at, "an argument as name=value")
            value, at = _value(text, skip(text, equals + 1), DEEPEST)
            more = {key[0]: value}
        for key, value in more.items():
            _put(values, key, value)
        at = _next(text, at, ")")
    return values, at + 1


def _value(text: str, at: int, levels: int) -> tuple[Any, int]:
    """The literal that begins at `at`, and the index after it. Lists and dicts nest at most so many levels."""
    found = _LITERAL.match(text, at)
    kind = found.lastgroup if found else None
    if not found or (kind == "word" and found[0] not in _WORDS):
        raise fault(text, at, "a string, number, True, False, None, list or dict")
    if kind == "string":
        return _unescaped(found[0][1:-1]), found.end()
    if kind == "word":
        return _WORDS[found[0]], found.end()
    if kind == "open":
        if not levels:
            raise CallError(f"an argument is nested deeper than {DEEPEST} levels, character {at + 1}")
        return (_list if found[kind] == "[" else _dict)(text, found.end(), levels - 1)
    if kind == "float":
        if math.isinf(value := float(found[0])):
            raise CallError(f"{found[0][:40]} is beyond a float's range")
        return value, found.end()
    try:
        return int(found[0]), found.end()
    except ValueError:  # Python's own limit, which the reader of JSON has too
        raise CallError(f"an integer has {len(found[0])} digits, character {at + 1}") from None


def _list(text: str, at: int, levels: int) -> tuple[list[Any], int]:
    """The values after `[` and white space, and the index after `]`."""
    values: list[Any] = []
    while not text.startswith("]", at):
        value, at = _value(text, at, levels)
        values.append(value)
        at = _next(text, at, "]")
    return values, at + 1


def _dict(text: str, at: int, levels: int) -> tuple[dict[str, Any], int]:
    """The keys and values after `{` and white space, and the index after `}`."""
    values: dict[str, Any] = {}
    while not text.startswith("}", at):
        if text[at : at + 1] not in ("'", '"', ""):
            raise fault(text, at, "a string as a key")
        key, at = _value(text, at, levels)
        at = skip(text, at)
        if not text.startswith(":", at):
            raise fault(text, at, "a colon")
        value, at = _value(text, skip(text, at + 1), levels)
        _put(values, key, value)
        at = _next(text, at, "}")
    return values, at + 1


def _put(values: dict[str, Any], key: str, value: object) -> None:
    if key in values:
        raise CallError(f"the key {key[:40]!r} is given twice")
    values[key] = value


def _next(text: str, at: int, end: str) -> int:
    """Where the next value or the end stands: after a comma, if there is one."""
    if comma := _COMMA.match(text, at):
        return comma.end()
    at = skip(text, at)
    if not text.startswith(end, at):
        raise fault(text, at, f"a comma or {end}")
    return at


def _unescaped(text: str) -> str:
    return _ESCAPE.sub(_character, text) if "\\" in text else text


def _character(found: re.Match[str]) -> str:
    """What an escape stands for. One that Python does not know stands for itself, as it does there."""
    if (letter := found[0][1:]) in _ESCAPES:
        return _ESCAPES[letter]
    if found["end"]:
        return ""
    if found["octal"]:
        return chr(int(found["octal"], 8))
    *hexadecimal, other = found.groups()[2:]
    if digits := next(filter(None, hexadecimal), None):
        if int(digits, 16) > 0x10FFFF:
            raise CallError(f"{found[0]} is no character")
        return chr(int(digits, 16))
    if other in "xuUN":
        raise CallError(f"\\{other} in a string begins no escape that is read")
    return found[0]


def skip(text: str, at: int) -> int:
    """The index after white space."""
    found = _SPACE.match(text, at)
    return found.end() if found else at


def fault(text: str, at: int, wanted: str, *begun: str) -> CallError:
    """The error that `wanted` does not stand at `at`. It is unfinished where the text ends inside one of the strings
    `begun` or, without any, inside an argument."""
    rest = text[at:].rstrip(WHITE)
    cut = any(word.startswith(rest) for word in begun) if begun else bool(_CUT.match(text, at))
    found = repr(rest[:20]) if rest else "the end"
    return CallError(f"character {at + 1}: {wanted} is missing before {found}", unfinished=cut)
