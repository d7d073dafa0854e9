"""Rows out of files: values untouched, each with the line it stands on, and every fault of a file on its line."""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.schema import SourceConfig
from tokenization.errors import DataError, Where
from trainer.data.sources import Source, open_source

ROWS = [{"id": "a", "x": None, "nested": {"k": [1, 2.5, True]}}, {"id": "ü 🎉"}, "text", 7, [1], {}]

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def opened(path: Path | str) -> Source:
    return open_source(SourceConfig(name="mine", path=str(path), role="agent"))


def values(source: Source) -> list[object]:
    return [source.row(i)[0] for i in range(len(source))]


def error_of(path: Path | str) -> str:
    with pytest.raises(DataError) as caught:
        values(opened(path))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@settings(deadline=None)
@given(rows=st.lists(json_values, min_size=1), end=st.sampled_from(["\n", "\r\n", "\n \n", "\n\n\t"]))
def test_jsonl_gives_what_was_written(tmp_path_factory: pytest.TempPathFactory, rows: list[object], end: str):
    path = tmp_path_factory.mktemp("jsonl") / "rows.jsonl"
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    if lines[0].startswith("["):  # that would be an array
        lines.insert(0, "0")
        rows = [0, *rows]
    path.write_bytes(end.join(lines).encode())
    assert values(opened(path)) == rows


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf", b"\n \r\n", b"\xef\xbb\xbf  \n"])
def test_an_array_is_known_by_its_first_byte(tmp_path: Path, indent: int | None, mark: bytes):
    path = tmp_path / "rows.whatever"
    path.write_bytes(mark + json.dumps(ROWS, indent=indent).encode())
    source = opened(path)
    assert values(source) == ROWS
    assert [source.row(i)[1].row for i in range(len(ROWS))] == [1, 2, 3, 4, 5, 6]


GAPS = st.text(alphabet=" \t\r\n", max_size=4)


@settings(deadline=None)
@given(
    rows=st.lists(st.tuples(json_values, st.sampled_from([None, 0, 3]), GAPS, GAPS), min_size=1, max_size=5),
    escaped=st.booleans(),
    opening=st.sampled_from([b"", b"\xef\xbb\xbf"]),
    edges=st.tuples(GAPS, GAPS),
)
def test_an_arrays_rows_are_found_with_their_lines(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[object, int | None, str, str]],
    escaped: bool,
    opening: bytes,
    edges: tuple[str, str],
):
    """A line is counted by the line ends before the row, as it is put together here."""
    text, lines = edges[0] + "[", []
    for value, indent, before, after in rows:
        text += before
        lines.append(text.count("\n") + 1)
        text += json.dumps(value, ensure_ascii=escaped, indent=indent) + after + ","
    path = tmp_path_factory.mktemp("array") / "rows.json"
    path.write_bytes(opening + (text[:-1] + "]" + edges[1]).encode())
    source = opened(path)
    assert repr(values(source)) == repr([value for value, *_ in rows])
    numbered = zip(lines, count(1), strict=False)
    assert [source.row(i)[1] for i in range(len(rows))] == [Where(str(path), *n) for n in numbered]


def test_a_place_is_written_with_its_line_and_an_arrays_with_its_row_too(tmp_path: Path):
    path = tmp_path / "rows.json"
    path.write_text('[\n{"n": 1},\n{"n":\n2}, {"n": 3}]')
    assert [str(opened(path).row(i)[1]) for i in range(3)] == [
        f"{path}:2 (row 1)",
        f"{path}:3 (row 2)",
        f"{path}:4 (row 3)",
    ]
    path.write_text('\n{"n": 1}')
    assert str(opened(path).row(0)[1]) == f"{path}:2"


@pytest.mark.parametrize("indent", [0, 1, "\t"])
@pytest.mark.parametrize("around", ["", "\n", " \r\n\t\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_an_object_over_several_lines_is_one_row(tmp_path: Path, indent: int | str, around: str, mark: bytes):
    value = {"a": [{"b": "ü\n"}, {}], "c": None}
    path = tmp_path / "tree.json"
    path.write_bytes(mark + (around + json.dumps(value, indent=indent) + around).encode())
    source = opened(path)
    assert values(source) == [value]
    assert source.row(0)[1] == Where(str(path), around.count("\n") + 1)


def test_an_object_is_whole_though_its_lines_look_like_rows(tmp_path: Path):
    path = tmp_path / "tree.json"
    path.write_text('{"a": [\n{"b": 1},\n{"b": 2}\n]}\n')
    assert values(opened(path)) == [{"a": [{"b": 1}, {"b": 2}]}]


@pytest.mark.parametrize("lines", ['{"a": [\n{"b": 1}\n{"b": 2}\n', '{"a" 1}\n5\n"b"\n'])
def test_lines_stay_rows_though_the_first_is_broken(tmp_path: Path, lines: str):
    path = tmp_path / "rows.jsonl"
    path.write_text(lines)
    source = opened(path)
    assert [source.row(i)[0] for i in (1, 2)] == [json.loads(line) for line in lines.splitlines()[1:]]
    assert error_of(path).startswith(f"{path}:1: no JSON: ")


def test_lines_are_counted_as_an_editor_counts_them(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'\xef\xbb\xbf\r\n{"n": 1}\r\n\r\n  \n{"n": 2}\n{"n": 3}')
    source = opened(path)
    assert [source.row(i) for i in range(3)] == [
        ({"n": 1}, Where(str(path), 2)),
        ({"n": 2}, Where(str(path), 5)),
        ({"n": 3}, Where(str(path), 6)),
    ]


def test_a_glob_is_read_in_order_of_names_and_files_may_differ_in_kind(tmp_path: Path):
    (tmp_path / "b.json").write_text("[3, 4]")
    (tmp_path / "a.json").write_text("1\n2\n")
    (tmp_path / "c.json").write_text("5")
    (tmp_path / "d.json").mkdir()
    source = opened(tmp_path / "*.json")
    assert values(source) == [1, 2, 3, 4, 5]
    assert source.row(3)[1] == Where(str(tmp_path / "b.json"), 1, row=2)
    assert (source.name, source.role, source.format) == ("mine", "agent", "auto")
    for beyond in (-1, 5):
        with pytest.raises(IndexError):
            source.row(beyond)


def test_a_glob_that_finds_a_file_twice_takes_it_once(tmp_path: Path):
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/rows.jsonl").write_text("1\n2")
    assert values(opened(tmp_path / "**/**/*.jsonl")) == [1, 2]


def test_a_file_may_have_glob_characters_in_its_name(tmp_path: Path):
    path = tmp_path / "part[1].jsonl"
    path.write_text("1")
    assert values(opened(path)) == [1]


def test_keys_keep_their_nulls_and_gaps(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": {"x": null}}\n{"a": {"y": 1}}\n')
    assert values(opened(path)) == [{"a": {"x": None}}, {"a": {"y": 1}}]


@pytest.mark.parametrize(
    ("content", "line", "reason"),
    [
        (b'{"a": 1}\n\n{"a": \n', 3, "no JSON"),
        (b'{"a": 1}\n{"a": "\xff"}\n', 2, "0xff is not UTF-8"),
        (b'{"a": 1}\n{"a": NaN}\n', 2, "NaN is not part of JSON"),
        (b'{"a": 1}\n{"a": -Infinity}\n', 2, "-Infinity is not part of JSON"),
        (b'{"a": 1}\n' + b'{"a":' * 100_000 + b"\n", 2, "nested hundreds of levels deep; flatten it"),
        (b'{"a": 1}\n' + b"9" * 5_000 + b"\n", 2, "an integer of more than 4300 digits; write a string"),
        (b'{"a": 1} {"a": 2}\n', 1, "no JSON: Extra data"),
        (b'{"a": 1}\n{"a": "\\ud83c"}\n', 2, "surrogate"),
        (b'{"a": 1}\n{"\\udf89": 1}\n', 2, "surrogate"),
        (b'{"a": 1}\n["\\uDC00"]\n', 2, "surrogate"),
        (b'{"a": 1}\n\xef\xbb\xbf{"a": 2}\n', 2, "no JSON: a byte order mark"),
        (b'{"a": 1}\n{"b": "\\n\n', 2, "no JSON: Unterminated string"),
        (b'[1,\n"\xc3"]\n', 2, "0xc3 is not UTF-8"),
        (b'[1,\n2]\n["x"]\n', 3, "no JSON: Extra data (column 1)"),
        (b"[1,\n2\n", 3, "no JSON: Expecting ',' delimiter"),
        (b"[1\n  2]", 2, "no JSON: Expecting ',' delimiter (column 3)"),
        (b'\n{"a": 1,\n "b": }\n', 3, "no JSON: Expecting value"),
        (b'{\n"a": 1\n}\n{\n"a": 2\n}\n', 4, "no JSON: Extra data"),
        (b'{\n"a": [1,\n"\xff"]\n}', 3, "0xff is not UTF-8"),
        (b'{\n"a": "NaN \\" NaN",\n"b": -Infinity}', 3, "-Infinity is not part of JSON"),
        (b'\n{\n"a": "\\ud83c"}', 2, "surrogate"),
        (b'{"a":\n' + b"[\n" * 100_000, 1, "nested hundreds"),
    ],
)
def test_bad_bytes_are_named_by_file_and_line(tmp_path: Path, content: bytes, line: int, reason: str):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    message = error_of(path)
    assert message.startswith(f"{path}:{line}: ")
    assert reason in message


@pytest.mark.parametrize(
    ("content", "place", "reason"),
    [
        (b'[1,\n2,\n{"a": }]\n', ":3 (row 3)", "no JSON: Expecting value (column 7)"),
        (b'[1,\n{"a":\n[1 2]}]', ":3 (row 2)", "no JSON: Expecting ',' delimiter (column 4)"),
        (b"[\n\n", ":3 (row 1)", "no JSON: Expecting value"),
        (b"[\n1,\n]", ":3 (row 2)", "no JSON: Expecting value"),
        (b"\xef\xbb\xbf[1,\n [1,\n NaN]]", ":3 (row 2)", "NaN is not part of JSON; write null"),
        (b'["a",\n"\\udfff"]', ":2 (row 2)", "surrogate"),
        (b"[1,\n" + b"9" * 5_000 + b"]", ":2 (row 2)", "4300 digits"),
        (b"[1,\n2,\n" + b"[" * 100_000 + b"]", ":3 (row 3)", "nested hundreds"),
    ],
)
def test_a_bad_row_of_an_array_is_named_by_line_and_row(
    tmp_path: Path, content: bytes, place: str, reason: str
):
    path = tmp_path / "rows.json"
    path.write_bytes(content)
    message = error_of(path)
    assert message.startswith(f"{path}{place}: ")
    assert reason in message


def test_a_constant_of_pythons_spoils_one_row_alone(tmp_path: Path):
    path = tmp_path / "rows.json"
    path.write_text('[1, {"a": NaN}, 3]')
    source = opened(path)
    assert [source.row(i)[0] for i in (0, 2)] == [1, 3]


def test_a_bad_line_does_not_keep_the_others_from_being_read(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    path.write_text("1\nno\n3\n")
    source = opened(path)
    assert [source.row(i)[0] for i in (0, 2)] == [1, 3]


@pytest.mark.parametrize("content", [b"", b" \n\r\n\t", b"[]", b"\xef\xbb\xbf", b"\n[ ]\n"])
def test_a_file_without_rows_is_refused_also_beside_others(tmp_path: Path, content: bytes):
    (tmp_path / "a.jsonl").write_text("1")
    (tmp_path / "b.jsonl").write_bytes(content)
    assert f"{tmp_path / 'b.jsonl'}: file without any row" in error_of(tmp_path / "*.jsonl")


@pytest.mark.parametrize("path", ["none.jsonl", "none/*.jsonl", "."])
def test_no_file_is_refused_with_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str):
    monkeypatch.chdir(tmp_path)
    message = error_of(path)
    assert "'mine'" in message
    assert repr(path) in message
    assert str(tmp_path) in message
