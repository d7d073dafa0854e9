"""One value of JSON as its standard has it, and what is wrong with one that is none, in a line with its place."""

from __future__ import annotations

import json
import re
import sys
from typing import NoReturn

from tokenization.errors import DataError, Where

_STRING_OR_CONSTANT = re.compile(r'"(?:[^"\\]++|\\.)*+"|(NaN|-?Infinity)')
_HALF = re.compile(rb"\\u[dD][89a-fA-F]")
"""An escape that stands for half a character, or is one half of two."""


def parsed(data: bytes, where: Where) -> object:
    """JSON as its standard has it (no NaN, no Infinity), or DataError; `data` begins at `where`."""
    text = decoded(data, where)
    try:
        value = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_unique)
        if _HALF.search(data):
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except json.JSONDecodeError as error:
        raise syntax_fault(error.msg, text, error.pos, where) from None
    except _ConstantError as error:
        at = next(found.start() for found in _STRING_OR_CONSTANT.finditer(text) if found[1])
        raise DataError(f"no JSON: {error}", _at(text, at, where)) from None
    except _RepeatedKeyError as error:
        raise DataError(f"no JSON that can be read: {error}; keep one of the two", where) from None
    except UnicodeEncodeError:
        reason = (
            "an escaped half of a surrogate pair (\\ud800 to \\udfff) is no text; write the whole character"
        )
        raise DataError(reason, where) from None
    except (ValueError, RecursionError) as error:
        raise too_much(error, where) from None


def decoded(data: bytes, where: Where) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = _line(where) + data.count(b"\n", 0, error.start)
        reason = f"byte {data[error.start]:#04x} is not UTF-8; save the file as UTF-8"
        raise DataError(reason, Where(where.file, line, where.row)) from None


def syntax_fault(reason: str, text: str, at: int, where: Where, column: int = 0) -> DataError:
    """What is wrong at character `at` of a text that begins at `where`, after `column` characters of its line."""
    last = text.rfind("\n", 0, at)
    column = at - last + (column if last < 0 else 0)
    remedy = f"(column {column}); a file is one array, one object, or one JSON value per line"
    return DataError(f"no JSON: {reason} {remedy}", _at(text, at, where))


def too_much(error: Exception, where: Where) -> DataError:
    """What JSON allows and Python's reader does not."""
    if isinstance(error, RecursionError):
        return DataError("no JSON that can be read: nested hundreds of levels deep; flatten it", where)
    return DataError(
        f"no JSON that can be read: an integer of more than {sys.get_int_max_str_digits()} digits; write a string",
        where,
    )


def _at(text: str, at: int, where: Where) -> Where:
    return Where(where.file, _line(where) + text.count("\n", 0, at), where.row)


def _line(where: Where) -> int:
    assert where.line is not None  # JSON stands in lines
    return where.line


class _ConstantError(ValueError):
    pass


class _RepeatedKeyError(ValueError):
    pass


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """An object as a dict. Of a key given twice Python keeps the last, which would drop data without a word."""
    value = dict(pairs)
    if len(value) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise _RepeatedKeyError(f"an object has the key {twice[:40]!r} twice")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise _ConstantError(f"{name} is not part of JSON; write null or a number")
