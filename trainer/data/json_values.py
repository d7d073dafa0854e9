"""One row's bytes read as JSON, and what is wrong with those that are none."""

from __future__ import annotations

import json
import re
import sys
from typing import NoReturn

from tokenization.errors import DataError, Where

_STRING_OR_CONSTANT = re.compile(r'"(?:[^"\\]++|\\.)*+"|(NaN|-?Infinity)')
_HALF = re.compile(rb"\\u[dD][89a-fA-F]")
"""An escape that stands for half a character, or is one half of two."""


def parse(data: bytes, where: Where) -> object:
    """JSON as its standard has it (no NaN, no Infinity), or DataError; `data` begins at `where`."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise no_text(error, where) from None
    if text.startswith("\ufeff"):
        raise no_json("a byte order mark, as where files were joined", 1, where)
    try:
        value = _DECODER.decode(text)
        if _HALF.search(data):
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except json.JSONDecodeError as error:
        column = error.pos - text.rfind("\n", 0, error.pos)
        raise no_json(error.msg, column, _below(where, text.count("\n", 0, error.pos))) from None
    except _ConstantError as error:
        at = next(found.start() for found in _STRING_OR_CONSTANT.finditer(text) if found[1])
        raise DataError(f"no JSON: {error}", _below(where, text.count("\n", 0, at))) from None
    except _RepeatedKeyError as error:
        raise DataError(f"no JSON that can be read: {error}; keep one of the two", where) from None
    except UnicodeEncodeError:
        reason = (
            "an escaped half of a surrogate pair (\\ud800 to \\udfff) is no text; write the whole character"
        )
        raise DataError(reason, where) from None
    except (ValueError, RecursionError) as error:
        raise too_much(error, where) from None


def no_text(error: UnicodeDecodeError, where: Where) -> DataError:
    """Bytes that are not UTF-8; those that were to be decoded begin at `where`."""
    reason = f"byte {error.object[error.start]:#04x} is not UTF-8; save the file as UTF-8"
    return DataError(reason, _below(where, error.object.count(b"\n", 0, error.start)))


def no_json(reason: str, column: int, where: Where) -> DataError:
    """A fault of syntax in the 1-based `column` of the line of `where`."""
    remedy = f"(column {column}); a file is one array, one object, or one JSON value per line"
    return DataError(f"no JSON: {reason} {remedy}", where)


def too_much(error: Exception, where: Where) -> DataError:
    """What JSON allows and Python's reader does not."""
    if isinstance(error, RecursionError):
        return DataError("no JSON that can be read: nested hundreds of levels deep; flatten it", where)
    return DataError(
        f"no JSON that can be read: an integer of more than {sys.get_int_max_str_digits()} digits; write a string",
        where,
    )


def _below(where: Where, lines: int) -> Where:
    return where if where.line is None else Where(where.file, where.line + lines, where.row)


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


# Made once: `json.loads` makes one for each text, which takes as long as a short row.
_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, object_pairs_hook=_unique)
