"""The rows of one file of JSON, each with its place: an array, an object, or a value on each line."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np

from tokenization.errors import DataError, Where

_BOM = b"\xef\xbb\xbf"
_SPACE = re.compile(r"[ \t\r\n]*")
_STRING_OR_CONSTANT = re.compile(r'"(?:[^"\\]++|\\.)*+"|(NaN|-?Infinity)')
_HALF = re.compile(rb"\\u[dD][89a-fA-F]")
"""An escape that stands for half a character, or is one half of two."""


class _Place(NamedTuple):
    """Bytes `start` to `stop` (exclusive) of a file, which begin on the 1-based `line`."""

    start: int
    stop: int
    line: int


class JsonFile:
    """One file's rows, of which only the places are kept: a row is read when it is asked for.

    It is an array where its first character is `[`; one row where it is an object that takes several lines; else
    a row stands on each line that is not blank.
    """

    def __init__(self, path: str) -> None:
        with open(path, "rb") as file:
            start = len(_BOM) if file.read(len(_BOM)) == _BOM else 0
            file.seek(start)
            written = (line for line in file if not line.isspace())
            first, second = next(written, b"").lstrip(), next(written, b"").lstrip()
        self._path = path
        self._is_array = first.startswith(b"[")
        places = _elements(path, start) if self._is_array else _lines(path, start)
        if second and first.startswith(b"{") and _unfinished(first):
            place = _object(path, start, lines_of_objects=second.startswith(b"{"))
            places = [place] if place else places
        # Numbers side by side: a list of tuples would take ten times the memory.
        self._places = np.fromiter(chain.from_iterable(places), np.int64).reshape(-1, len(_Place._fields))
        if not len(self):
            raise DataError(f"{path}: file without any row; remove it or fill it")

    def __len__(self) -> int:
        return len(self._places)

    def row(self, i: int) -> tuple[object, Where]:
        place = _Place(*self._places[i].tolist())
        where = Where(self._path, place.line, i + 1 if self._is_array else None)
        with open(self._path, "rb") as file:
            file.seek(place.start)
            return _parse(file.read(place.stop - place.start), where), where


def _lines(path: str, start: int) -> Iterator[_Place]:
    """The lines that are not blank, without their ends: or an unfinished value would be reported a line too late."""
    with open(path, "rb") as file:
        file.seek(start)
        for number, line in enumerate(file, start=1):
            if not line.isspace():
                yield _Place(start, start + len(line.rstrip(b"\r\n")), number)
            start += len(line)


def _elements(path: str, start: int) -> Iterator[_Place]:
    """The elements of an array, each parsed by itself, so that its place is known."""
    file = Where(path, 1)
    text = _text(Path(path).read_bytes()[start:], file)
    seen, line, row = 0, 1, 1
    at = _skip(text, _skip(text, 0) + 1)
    more = not text.startswith("]", at)
    while more:
        line += text.count("\n", seen, at)
        start += len(text[seen:at].encode())
        stop = _value_end(text, at, Where(path, line, row))
        yield _Place(start, start + len(text[at:stop].encode()), line)
        seen, row = at, row + 1
        at = _skip(text, stop)
        more = text.startswith(",", at)
        if more:
            at = _skip(text, at + 1)
        elif not text.startswith("]", at):
            raise _syntax_fault("Expecting ',' delimiter", text, at, file)
    if (rest := _skip(text, at + 1)) < len(text):
        raise _syntax_fault("Extra data", text, rest, file)


def _object(path: str, start: int, lines_of_objects: bool) -> _Place | None:
    """The one object a file holds; None where it holds something else and may be lines, the first of them broken."""
    file = Where(path, 1)
    text = _text(Path(path).read_bytes()[start:], file)
    at = _skip(text, 0)
    line = 1 + text.count("\n", 0, at)
    try:
        stop = _value_end(text, at, Where(path, line))
        if (rest := _skip(text, stop)) < len(text):
            raise _syntax_fault("Extra data", text, rest, file)
    except DataError:
        if lines_of_objects:
            return None
        raise
    start += len(text[:at].encode())
    return _Place(start, start + len(text[at:stop].encode()), line)


def _unfinished(line: bytes) -> bool:
    """Would more text make it JSON?"""
    try:
        json.loads(line)
    except json.JSONDecodeError as error:
        return error.pos >= len(error.doc.rstrip())
    except (ValueError, RecursionError):
        return False
    return False


def _skip(text: str, at: int) -> int:
    """The first character from `at` that is no white space."""
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _value_end(text: str, at: int, where: Where) -> int:
    """Where the JSON value at `at` ends. Python's NaN and Infinity pass: `_parse` refuses them, one row each."""
    try:
        return _DECODER.raw_decode(text, at)[1]
    except json.JSONDecodeError as error:
        raise _syntax_fault(error.msg, text, error.pos, Where(where.file, 1, where.row)) from None
    except (ValueError, RecursionError) as error:
        raise _too_much(error, where) from None


def _parse(data: bytes, where: Where) -> object:
    """JSON as its standard has it (no NaN, no Infinity), or DataError; `data` begins at `where`."""
    text = _text(data, where)
    try:
        value = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_unique)
        if _HALF.search(data):
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except json.JSONDecodeError as error:
        raise _syntax_fault(error.msg, text, error.pos, where) from None
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
        raise _too_much(error, where) from None


def _text(data: bytes, where: Where) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = where.line + data.count(b"\n", 0, error.start)
        reason = f"byte {data[error.start]:#04x} is not UTF-8; save the file as UTF-8"
        raise DataError(reason, Where(where.file, line, where.row)) from None


def _syntax_fault(reason: str, text: str, at: int, where: Where) -> DataError:
    """What is wrong at character `at` of a text that begins at `where`."""
    column = at - text.rfind("\n", 0, at)
    remedy = f"(column {column}); a file is one array, one object, or one JSON value per line"
    return DataError(f"no JSON: {reason} {remedy}", _at(text, at, where))


def _too_much(error: Exception, where: Where) -> DataError:
    """What JSON allows and Python's reader does not."""
    if isinstance(error, RecursionError):
        return DataError("no JSON that can be read: nested hundreds of levels deep; flatten it", where)
    return DataError(
        f"no JSON that can be read: an integer of more than {sys.get_int_max_str_digits()} digits; write a string",
        where,
    )


def _at(text: str, at: int, where: Where) -> Where:
    return Where(where.file, where.line + text.count("\n", 0, at), where.row)


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


_DECODER = json.JSONDecoder()
