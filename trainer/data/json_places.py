"""Where the rows of a file of JSON stand, found piece by piece: of a large file only a window is ever held.

Lines are found without looking into them; a row that is no JSON is met when it is read. The elements of an array are
parsed, each by itself, and a fault of the array's own is met here.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from itertools import chain, islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokenization.errors import DataError, Where
from trainer.data.json_values import no_json, no_text, too_much

Places = NDArray[np.int64]
"""[rows, 3]: a row's first byte in the file, the byte behind its last, its 1-based line."""

_SPACES = np.array([chr(byte).isspace() and byte < 128 for byte in range(256)])
_TEXT = re.compile(rb"\S")
_JSON_SPACE = re.compile(r"[ \t\r\n]*")
_EDGE = 16
"""Characters at the window's end that may be the beginning of something longer: a number, a word, an escape."""
_BATCH = 8192
_DECODER = json.JSONDecoder()


class Place(NamedTuple):
    """Bytes `start` to `stop` (exclusive) of a file, which begin on the 1-based `line`."""

    start: int
    stop: int
    line: int


def line_places(pieces: Iterator[memoryview], start: int) -> Iterator[Places]:
    """The lines that are not blank, without their line feeds, some at a time; the first begins at byte `start`."""
    at, line, has_text = 0, 1, False  # where the piece begins; the line that is under way there
    for piece in pieces:
        data = np.frombuffer(piece, np.uint8)
        ends = np.flatnonzero(data == ord("\n"))
        begins = np.empty(len(ends) + 1, np.int64)
        begins[0] = max(start - at, 0)
        begins[1:] = ends + 1
        filled = np.ones(len(ends), bool)
        # Only a line whose first byte is white space can be blank; there are few.
        for k in np.flatnonzero(_SPACES[data[begins[:-1]]]).tolist():
            filled[k] = _TEXT.search(piece, begins[k], ends[k]) is not None
        rest = int(begins[-1])
        if len(ends):
            filled[0] |= has_text
            places = np.stack([at + begins[:-1], at + ends, np.arange(line, line + len(ends))], axis=1)
            places[0, 0] = start
            yield places[filled]
            start, line, has_text = at + rest, line + len(ends), False
        has_text = has_text or _TEXT.search(piece, rest) is not None
        at += len(piece)
    if has_text:
        yield np.array([[start, at, line]])


def element_places(path: str, pieces: Iterator[memoryview], start: int) -> Iterator[Places]:
    """The elements of an array that begins at byte `start` or behind white space, some at a time.

    Raises DataError where it is no array, with the row and the line of a broken element.
    """
    elements = _elements(_Reader(path, pieces, start))
    while batch := list(islice(elements, _BATCH)):
        yield np.fromiter(chain.from_iterable(batch), np.int64).reshape(-1, len(Place._fields))


def object_place(path: str, pieces: Iterator[memoryview], start: int) -> Place:
    """The one object a file holds. Raises DataError where it holds something else, or more."""
    reader = _Reader(path, pieces, start)
    reader.skip_space()
    place = reader.value()
    reader.end()
    return place


def _elements(reader: _Reader) -> Iterator[Place]:
    reader.skip_space()
    reader.advance(1)
    reader.skip_space()
    row = 1
    while reader.next != "]" or row > 1:  # a comma promises one more
        yield reader.value(row)
        row += 1
        reader.skip_space()
        if reader.next == "]":
            break
        if reader.next != ",":
            raise reader.fault("Expecting ',' delimiter")
        reader.advance(1)
        reader.skip_space()
    reader.advance(1)
    reader.end()


class _Reader:
    """Goes through the text of a file, of which it holds what it has come to and some beyond."""

    def __init__(self, path: str, pieces: Iterator[memoryview], start: int) -> None:
        self._path = path
        self._pieces = pieces
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._text = ""
        self._at = 0
        """The character it has come to."""
        self._byte, self._line = start, 1
        """Of that character."""
        self._before = 0
        """Characters that stood before the text on its first line."""

    @property
    def next(self) -> str:
        """The character it has come to; none at the end of the file, or where it must read on."""
        return self._text[self._at : self._at + 1]

    def advance(self, characters: int) -> None:
        passed = self._text[self._at : self._at + characters]
        self._at += len(passed)
        self._byte += len(passed.encode())
        self._line += passed.count("\n")

    def skip_space(self) -> None:
        while True:
            found = _JSON_SPACE.match(self._text, self._at)
            self.advance(found.end() - self._at if found else 0)
            if self.next or not self._read_on():
                return

    def end(self) -> None:
        """Only white space is left."""
        self.skip_space()
        if self.next:
            raise self.fault("Extra data")

    def value(self, row: int | None = None) -> Place:
        """Passes the JSON value that begins here. Python's NaN and Infinity pass: they are refused one row each."""
        start, line = self._byte, self._line
        while True:
            try:
                stop = _DECODER.raw_decode(self._text, self._at)[1]
            except json.JSONDecodeError as error:
                # A string is reported where it begins, anything else where it goes wrong.
                cut = error.msg.startswith("Unterminated string") or self._near_edge(error.pos)
                if not (cut and self._read_on()):
                    raise self.fault(error.msg, error.pos, row) from None
            except (ValueError, RecursionError) as error:
                # A number too long for Python ends somewhere in the text, or goes on behind it and may be a fraction.
                cut = isinstance(error, ValueError) and self._text[-1] in "0123456789.eE+-"
                if not (cut and self._read_on()):
                    raise too_much(error, Where(self._path, line, row)) from None
            else:
                if not (self._near_edge(stop) and self._read_on()):
                    self.advance(stop - self._at)
                    return Place(start, self._byte, line)

    def fault(self, reason: str, at: int | None = None, row: int | None = None) -> DataError:
        """What is wrong at character `at` of the text, by default where it has come to."""
        at = self._at if at is None else at
        line_end = self._text.rfind("\n", 0, at)
        column = at - line_end if line_end >= 0 else self._before + at + 1
        line = self._line + self._text.count("\n", self._at, at)
        return no_json(reason, column, Where(self._path, line, row))

    def _near_edge(self, at: int) -> bool:
        return at + _EDGE > len(self._text)

    def _read_on(self) -> bool:
        """As much text again as is ahead, one piece at least; what is passed is forgotten. False at the file's end.

        Doubling keeps a value that is longer than a piece from being parsed once for each of its pieces.
        """
        ahead = len(self._text) - self._at
        parts: list[str] = []
        while sum(map(len, parts)) <= ahead:
            piece = next(self._pieces, None)
            try:
                parts.append(self._decoder.decode(bytes(piece or b""), final=piece is None))
            except UnicodeDecodeError as error:
                line = self._line + "".join([self._text[self._at :], *parts]).count("\n")
                raise no_text(error, Where(self._path, line)) from None
            if piece is None:
                break
        added = "".join(parts)
        if not added:
            return False
        line_end = self._text.rfind("\n", 0, self._at)
        self._before = self._at - line_end - 1 if line_end >= 0 else self._before + self._at
        self._text, self._at = self._text[self._at :] + added, 0
        return True
