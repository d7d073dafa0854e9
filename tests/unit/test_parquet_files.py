"""Rows of Parquet are the objects that were put in: no key that a row did not have, no value that JSON lacks."""

from __future__ import annotations

import datetime
import decimal
import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.schema import SourceConfig
from tokenization.errors import DataError, Where
from trainer.data import parquet_files
from trainer.data.parquet_files import ParquetFile
from trainer.data.sources import open_source


def written(path: Path, rows: list[dict[str, Any]], schema: pa.Schema | None = None, **settings: Any) -> Path:
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path, **settings)
    return path


def values(file: ParquetFile) -> list[object]:
    return [file.row(i)[0] for i in range(len(file))]


def error_of(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        values(ParquetFile(str(path)))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_call_has_no_arguments_of_other_tools(tmp_path: Path):
    """An Arrow struct has the keys of all rows, null where a row lacks one; items of a list that are null stay."""
    rows = [
        {"id": "a", "messages": [{"role": "user", "content": "ü 🎉\n"}], "calls": [{"city": "Oslo"}, None]},
        {"id": "b", "messages": [{"role": "tool", "content": ""}], "calls": [{"x": 1, "y": [1.5, None]}]},
        {"messages": [], "calls": [{}]},
        {"id": "d"},
    ]
    file = ParquetFile(str(written(tmp_path / "rows.parquet", rows)))
    assert values(file) == rows
    assert [list(row) for row in values(file) if isinstance(row, dict)] == [list(row) for row in rows]


@given(
    rows=st.lists(
        st.fixed_dictionaries(
            {"n": st.integers(-(2**63), 2**63 - 1)},
            optional={
                "s": st.text(),
                "f": st.floats(allow_nan=False, allow_infinity=False),
                "b": st.booleans(),
                "l": st.lists(st.none() | st.text(max_size=3), max_size=3),
                "o": st.fixed_dictionaries(
                    {}, optional={"p": st.integers(-9, 9), "q": st.lists(st.booleans())}
                ),
            },
        ),
        min_size=1,
        max_size=12,
    ),
    group=st.integers(1, 5),
    batch=st.integers(1, 5),
)
def test_rows_come_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]], group: int, batch: int
):
    schema = pa.schema(
        {
            "n": pa.int64(),
            "s": pa.string(),
            "f": pa.float64(),
            "b": pa.bool_(),
            "l": pa.list_(pa.string()),
            "o": pa.struct({"p": pa.int8(), "q": pa.list_(pa.bool_())}),
        }
    )
    path = written(tmp_path_factory.mktemp("rows") / "rows", rows, schema, row_group_size=group)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parquet_files, "_ROWS", batch)
        file = ParquetFile(str(path))
    # A struct's keys come in the schema's order; as text, so that 1, 1.0 and true differ.
    assert json.dumps(values(file), sort_keys=True) == json.dumps(rows, sort_keys=True)
    assert [file.row(i)[1] for i in range(len(rows))] == [
        Where(str(path), None, i + 1) for i in range(len(rows))
    ]


@pytest.mark.parametrize(
    ("kind", "given", "read"),
    [
        (pa.dictionary(pa.int8(), pa.string()), "word", "word"),
        (pa.large_string(), "word", "word"),
        (pa.large_list(pa.int16()), [1, None], [1, None]),
        (pa.list_(pa.uint64(), 2), [1, 2**64 - 1], [1, 2**64 - 1]),
        (pa.map_(pa.string(), pa.int8()), [("a", 1), ("b", None)], {"a": 1, "b": None}),
        (pa.float32(), 0.5, 0.5),
        (pa.float16(), 0.5, 0.5),
        (pa.struct({"a": pa.struct({"b": pa.int8()})}), {"a": {"b": None}}, {"a": {}}),
    ],
)
def test_types_of_columns(tmp_path: Path, kind: pa.DataType, given: object, read: object):
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"x": pa.array([given, None], kind)}), path)
    assert values(ParquetFile(str(path))) == [{"x": read}, {}]


def test_json_in_a_column_is_the_value_it_spells(tmp_path: Path):
    """As the library datasets writes its feature Json; a null in it was written by somebody."""
    path = tmp_path / "rows.parquet"
    spelled = pa.ExtensionArray.from_storage(pa.json_(), pa.array(['{"x": null, "y": 1.5}', None, '"text"']))
    pq.write_table(pa.table({"arguments": spelled}), path)
    assert values(ParquetFile(str(path))) == [{"arguments": {"x": None, "y": 1.5}}, {}, {"arguments": "text"}]
    broken = pa.ExtensionArray.from_storage(pa.json_(), pa.array(["{}", '{"x": }']))
    pq.write_table(pa.table({"arguments": broken}), path)
    assert error_of(path).startswith(
        f"{path} (row 2): column 'arguments': JSON in it:1: no JSON: Expecting value"
    )


MOMENT = datetime.datetime(2024, 1, 2)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"bytes", "JSON has no binary; cast it to a string, or drop the column"),
        (MOMENT, "JSON has no timestamp[us]; cast"),
        (MOMENT.date(), "JSON has no date32"),
        (decimal.Decimal("1.50"), "JSON has no decimal128(3, 2)"),
        (float("nan"), "nan is not part of JSON; make it null, or drop the column"),
        (float("-inf"), "-inf is not part of JSON"),
        ([float("nan")], "nan is not part of JSON"),
        ({"inner": [b"bytes"]}, "JSON has no binary"),
    ],
)
def test_what_json_lacks_is_named_by_row_and_column(tmp_path: Path, value: object, reason: str):
    path = written(
        tmp_path / "rows.parquet", [{"n": n, "x": value if n >= 300 else None} for n in range(302)]
    )
    message = error_of(path)
    assert message.startswith(f"{path} (row 301): column 'x': ")
    assert reason in message


def test_a_key_twice_in_a_map_is_refused(tmp_path: Path):
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"m": pa.array([[("a", 1), ("a", 2)]], pa.map_(pa.string(), pa.int8()))}), path)
    assert error_of(path).startswith(f"{path} (row 1): column 'm': a map has a key twice")


def test_two_columns_of_one_name_are_refused(tmp_path: Path):
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["x", "x"]), path)
    assert error_of(path) == f"{path}: two columns are named 'x'; rename one"


@pytest.mark.parametrize("part", [0.5, 0.98])
def test_a_file_that_was_cut_is_refused(tmp_path: Path, part: float):
    path = written(tmp_path / "rows.parquet", [{"n": "x" * 100}] * 50)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
    message = error_of(path)
    assert message.startswith(f"{path}: no Parquet that can be read (")
    assert message.endswith("; fetch or write it anew")


def test_a_page_that_was_spoiled_is_refused(tmp_path: Path):
    path = written(tmp_path / "rows.parquet", [{"n": f"{n}" * 50} for n in range(50)], compression="gzip")
    content = bytearray(path.read_bytes())
    content[60:200] = b"\xff" * 140
    path.write_bytes(content)
    assert error_of(path).startswith(f"{path}: no Parquet that can be read (")


def test_a_table_without_rows_is_refused(tmp_path: Path):
    path = written(tmp_path / "rows.parquet", [], pa.schema({"x": pa.int8()}))
    assert error_of(path) == f"{path}: file without any row; remove it or fill it"


def test_rows_are_written_out_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path, cache = written(tmp_path / "rows.parquet", [{"n": n} for n in range(600)]), tmp_path / "cache"
    first = ParquetFile(str(path), cache)
    assert first.stamp.digest == hashlib.sha256(path.read_bytes()).hexdigest()[:32]

    def never(path: str) -> None:
        raise AssertionError

    with monkeypatch.context() as patch:
        patch.setattr(parquet_files, "_batches", never)
        again = ParquetFile(str(path), cache)
    expected = [{"n": n} for n in range(600)]
    assert values(again) == values(first) == expected
    assert again.stamp == first.stamp
    (rows,) = (cache / "indexes").glob("*.rows")
    assert [json.loads(line) for line in rows.read_text().splitlines()] == expected
    whole = rows.read_bytes()
    for damaged in (whole[:-5], whole.replace(b"17", b"18", 1)):
        (rows,) = (cache / "indexes").glob("*.rows")
        rows.write_bytes(damaged)
        assert values(ParquetFile(str(path), cache)) == expected


def test_a_row_that_is_no_json_leaves_the_others(tmp_path: Path):
    path = written(tmp_path / "rows.parquet", [{"n": 1.0}, {"n": float("nan")}, {"n": 3.0}])
    file = ParquetFile(str(path))
    assert [file.row(i)[0] for i in (0, 2)] == [{"n": 1.0}, {"n": 3.0}]
    with pytest.raises(
        DataError, match=r"rows\.parquet \(row 2\): column 'n': nan is not part of JSON"
    ) as caught:
        file.row(1)
    assert caught.value.where == Where(str(path), None, 2)


def test_it_is_known_by_its_first_bytes_and_a_row_by_its_number(tmp_path: Path):
    written(tmp_path / "b", [{"n": 2}, {"n": 3}])
    (tmp_path / "a").write_text('{"n": 1}')
    source = open_source(
        SourceConfig(name="mine", path=str(tmp_path / "?"), role="agent"), tmp_path / "cache"
    )
    assert [source.row(i)[0] for i in range(3)] == [{"n": 1}, {"n": 2}, {"n": 3}]
    assert [str(source.row(i)[1]) for i in (0, 2)] == [f"{tmp_path / 'a'}:1", f"{tmp_path / 'b'} (row 2)"]
    assert [(stamp.path, stamp.rows) for stamp in source.files] == [
        (str(tmp_path / "a"), 1),
        (str(tmp_path / "b"), 2),
    ]
