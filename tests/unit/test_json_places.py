"""Places of rows in JSON: found piece by piece as by reading the file whole, whatever the pieces."""

from __future__ import annotations

import hashlib
import json
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenization.errors import DataError
from trainer.data import indexer
from trainer.data.json_files import JsonFile


def values(file: JsonFile) -> list[object]:
    return [file.row(i)[0] for i in range(len(file))]


def pieces_of(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(indexer, "PIECE", size)


LINES = st.lists(
    st.sampled_from(
        [b"", b" ", b"\t\r", b"1", b" 2", b'"\xc3\xbc"', b'{"a": [1, 2]}', b"  \x0b", b'{"a":', b"null "]
    ),
    max_size=12,
)


@given(
    lines=LINES,
    end=st.sampled_from([b"\n", b"\r\n", b"\r\r\n"]),
    mark=st.sampled_from([b"", b"\xef\xbb\xbf"]),
    last=st.booleans(),
    piece=st.integers(1, 12),
)
def test_lines_are_those_of_the_file_read_whole(
    tmp_path_factory: pytest.TempPathFactory,
    lines: list[bytes],
    end: bytes,
    mark: bytes,
    last: bool,
    piece: int,
):
    path = tmp_path_factory.mktemp("lines") / "rows.jsonl"
    content = b"0" + end + end.join(lines) + (end if last else b"")
    path.write_bytes(mark + content)
    expected = [
        (n, line.strip(b"\r"))
        for n, line in enumerate(content.split(b"\n"), 1)
        if not line.isspace() and line
    ]
    with pytest.MonkeyPatch.context() as patch:
        pieces_of(patch, piece)
        index = JsonFile(str(path))._index  # pyright: ignore[reportPrivateUsage]
    found = [index.read(i) for i in range(len(index))]
    assert [(line, data.strip(b"\r")) for data, line in found] == expected
    assert index.stamp.digest == hashlib.sha256(mark + content).hexdigest()[:32]
    assert index.stamp.rows == len(expected)


ELEMENTS = st.recursive(
    st.sampled_from(
        [0, -1, 12.5, 1e300, 1e-7, True, False, None, "", "ü🎉", 'quo"te\\', "]", "},{", "\n\u2028"]
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(
    rows=st.lists(ELEMENTS, min_size=1, max_size=8),
    indent=st.sampled_from([None, 0, 2]),
    escaped=st.booleans(),
    edge=st.text(" \n\r", max_size=3),
    piece=st.integers(1, 40),
)
def test_elements_are_those_of_the_array_read_whole(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[object],
    indent: int | None,
    escaped: bool,
    edge: str,
    piece: int,
):
    """Whatever a piece ends in: a number, a word, an escape, half a character."""
    path = tmp_path_factory.mktemp("array") / "rows.json"
    path.write_bytes((edge + json.dumps(rows, indent=indent, ensure_ascii=escaped) + edge).encode())
    with pytest.MonkeyPatch.context() as patch:
        pieces_of(patch, piece)
        file = JsonFile(str(path))
    assert repr(values(file)) == repr(rows)
    assert file.stamp.digest == hashlib.sha256(path.read_bytes()).hexdigest()[:32]


@given(
    content=st.binary(max_size=24).map(lambda tail: b"[" + tail)
    | st.text('[]{},:"\\u0dtrue-1.5eE \n', max_size=24).map(lambda tail: f"[{tail}".encode())
    | st.sampled_from(
        [b"[1,\n2", b"[1\n 2]", b'["a', b"[1,]", b"[1] 2", b"[1.5e+]", b"[-", b"[tru]", b'["\\ud8"]']
    )
)
def test_a_broken_array_is_refused_alike_whatever_the_pieces(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
):
    """With the same line and column; bytes that are no text come first or after, as they are reached."""
    path = tmp_path_factory.mktemp("broken") / "rows.json"
    path.write_bytes(content)

    def outcome(piece: int) -> object:
        with pytest.MonkeyPatch.context() as patch:
            pieces_of(patch, piece)
            try:
                file = JsonFile(str(path))
                return [file._index.read(i) for i in range(len(file))]  # pyright: ignore[reportPrivateUsage]
            except DataError as error:
                return str(error)

    whole = outcome(1 << 20)
    try:
        content.decode()
    except UnicodeDecodeError:
        assert all(isinstance(outcome(piece), str) for piece in (1, 2, 5)) == isinstance(whole, str)
        return
    assert [outcome(piece) for piece in (1, 2, 3, 5, 17)] == [whole] * 5
    try:
        expected = len(json.loads(content))
    except (ValueError, RecursionError):
        assert isinstance(whole, str)
    else:
        assert len(whole) == expected if isinstance(whole, list) else not expected


def test_a_numbers_digits_may_lie_in_many_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """20,000 digits are too long for an integer, and no fault before a point."""
    pieces_of(monkeypatch, 64)
    path = tmp_path / "rows.json"
    path.write_text("[1, " + "9" * 20_000 + ".5, 2]")
    assert len(JsonFile(str(path))) == 3
    path.write_text("[1,\n" + "9" * 20_000 + ", 2]")
    with pytest.raises(DataError, match=rf"{path}:2 \(row 2\): .*4300 digits"):
        JsonFile(str(path))


def test_an_object_over_several_pieces_is_one_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pieces_of(monkeypatch, 5)
    path = tmp_path / "tree.json"
    path.write_text(json.dumps({"a": [{"b": "ü" * 40}], "c": 1.5}, indent=1, ensure_ascii=False) + "\n")
    assert values(JsonFile(str(path))) == [json.loads(path.read_text())]


@pytest.mark.parametrize("kind", ["lines", "array"])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, kind: str):
    row = json.dumps({"text": "x" * 400})
    path = tmp_path / "rows"
    with path.open("w") as file:
        file.write("[" if kind == "array" else "")
        file.writelines((row + ("," if kind == "array" else "") + "\n") for _ in range(75_000))
        file.write(row + ("]" if kind == "array" else "\n"))
    assert path.stat().st_size > 30e6
    tracemalloc.start()
    try:
        file = JsonFile(str(path), tmp_path / "cache")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(file) == 75_001
    assert file.row(75_000)[0] == json.loads(row)
    assert peak < 12 * indexer.PIECE
