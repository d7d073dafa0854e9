"""Values of a row read by their type. What is wrong with one is a Fault: a line that names it and the remedy."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import Any

from tokenization.conversation import canonical
from tokenization.grammar.reply import CallError, strict_json

Object = Mapping[str, object]

NOTHING = (None, "", "[]", [])
"""Values of a key that may as well not be there: tables write them where a row has none."""

DEEPEST = 100
"""Levels of arguments, tools and results. Far more than data has, far less than Python's recursion bears."""

_SPACE = " \t\r\n"


class Fault(ValueError):
    """What is wrong with a row, in one line; `parse_row` adds where the row stands."""


def given(fields: Object, key: str) -> bool:
    """Does the key say anything?"""
    return fields.get(key) not in NOTHING


def required(fields: Object, key: str, owner: str) -> object:
    """The key's value, whatever it is."""
    if key not in fields:
        raise Fault(f"{owner} has no {key!r}; its keys are {shown(list(fields))}")
    return fields[key]


def text(value: object, name: str) -> str:
    """A string that UTF-8 can write."""
    if not isinstance(value, str):
        raise Fault(f"{name} is {named(value)}, not a string; write the text itself")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise Fault(
            f"{name} holds half a surrogate pair at character {error.start + 1}; write the whole character"
        ) from None
    return value


def optional_text(fields: Object, key: str, owner: str) -> str | None:
    """A string under the key; None where it is missing, null or empty."""
    value = fields.get(key)
    return None if value is None or value == "" else text(value, f"{owner}: {key!r}")


def json_text(value: object, name: str) -> str:
    """`canonical` JSON of a value of the row."""
    if _deeper_than(DEEPEST, value):
        raise Fault(f"{name}: nested deeper than {DEEPEST} levels; flatten it")
    try:
        written = canonical(value)
        written.encode()
    except UnicodeEncodeError:
        raise Fault(f"{name}: a string holds half a surrogate pair; write the whole character") from None
    except ValueError:
        raise Fault(
            f"{name}: NaN, an infinity or a number of thousands of digits is no JSON; write null or a string"
        ) from None
    return written


def json_value(written: str, name: str) -> Any:
    """The one JSON value a text holds, with nothing after it."""
    start = len(written) - len(written.lstrip(_SPACE))
    try:
        value, end = strict_json(written, start)
    except CallError as error:
        raise Fault(f"{name}: {error}; write it as JSON") from None
    if rest := written[end:].lstrip(_SPACE):
        at = len(written) - len(rest) + 1
        raise Fault(f"{name}: text after the JSON value, character {at}; write one value alone")
    return value


def named(value: object) -> str:
    """A JSON value's type in JSON's words."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    names: dict[type, str] = {str: "a string", int: "a number", float: "a number", list: "a list"}
    return names.get(type(value), "an object")


def shown(value: object) -> str:
    """A value as it stands in an error: on one line and not endless."""
    try:
        return reprlib.repr(value)
    except ValueError:  # an integer of more digits than Python writes
        return named(value)


def _deeper_than(levels: int, value: object) -> bool:
    """Without recursion, and with no more looks than `levels`."""
    level = [value]
    for _ in range(levels):
        level = [
            inner
            for outer in level
            if isinstance(outer, list | dict)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return False
    return any(isinstance(value, list | dict) for value in level)
