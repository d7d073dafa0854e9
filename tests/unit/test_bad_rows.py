"""Bad rows left out: every one told with its place, counted by reason, and not too many of them."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from random import Random

import pytest
from streams import Row, stream_of
from test_formats_hostile import hostile_lines

from configs.schema import DataConfig, SourceConfig
from tokenization.builder import SampleBuilder
from tokenization.encoder import Encoder
from tokenization.errors import DataError, Where
from trainer.data.bad_rows import OTHER, BadRow, Quarantine, bad_row, counted, reason, told
from trainer.data.prefetch import Prefetch
from trainer.data.sources import open_source
from trainer.data.stream import RowStream

TOKENIZER = Path(__file__).parents[2] / "configs/demo/tokenizer"
LINES = int(os.environ.get("HOSTILE_LINES", "2000"))

DATA: dict[str, list[Row]] = {
    "agent": [(5, True), "no JSON: Expecting ',' delimiter (column 7); a file is one array", (9, True)] * 4,
    "general": [(6, True), (7, True), "message 3 has role 'judge', which is unknown; use user", (4, True)]
    * 5,
}


def test_all_are_told_once_and_counted_by_reason(tmp_path: Path):
    stream = stream_of(DATA, on_error="skip")
    told: list[BadRow] = []
    for _ in range(40):
        next(stream)
        told += stream.take_bad_rows()
    report = {report.name: report for report in stream.report()}
    assert min(r.epochs for r in report.values()) > 2  # they are met again, and not told again
    assert Counter((row.source, row.line) for row in told) == Counter(
        (name, i + 1) for name, rows in DATA.items() for i, row in enumerate(rows) if isinstance(row, str)
    )
    assert report["agent"].bad == {"no JSON: Expecting … delimiter (column …)": 4}
    assert report["general"].bad == {"message … has role …, which is unknown": 5}
    assert told[0].file == "memory"
    assert {row.message for row in told if row.source == "agent"} == {DATA["agent"][1]}


def test_strict_stops_at_the_first():
    stream = stream_of(DATA)
    with pytest.raises(DataError, match=r"^memory:\d+: "):
        [next(stream) for _ in range(40)]


def test_one_too_many_stops_the_run_and_says_what_they_were():
    stream = stream_of(DATA, on_error="skip", max_bad_rows=8)
    with pytest.raises(DataError, match=r"^9 bad rows, data\.max_bad_rows=8 allows no more") as caught:
        [next(stream) for _ in range(40)]
    assert "x message … has role" in str(caught.value) or "x no JSON" in str(caught.value)
    stream = stream_of(DATA, on_error="skip", max_bad_rows=9)
    for _ in range(40):
        next(stream)


def test_a_fault_without_a_place_is_never_left_out():
    """As that of a file which changed while it was read: no row is to blame."""
    stream = stream_of({"agent": [(3, True)], "general": [(5, True)]}, on_error="skip")

    def gone(i: int) -> tuple[object, Where]:
        raise DataError("data/a.jsonl: changed while it is in use")

    stream.samples.sources[0].row = gone  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(DataError, match="changed while it is in use"):
        next(stream)


def test_a_source_of_bad_rows_alone_is_an_error():
    stream = stream_of({"agent": ["no", "nor"], "general": [(8, True)] * 20}, on_error="skip")
    with pytest.raises(
        DataError, match=r"source 'agent': none of its 2 rows can be trained on: .* 2 are bad"
    ):
        [next(stream) for _ in range(20)]


@pytest.mark.parametrize("unit", ["samples", "targets"])
def test_strict_becomes_skip_at_a_checkpoint(unit: str):
    """Who is stopped by a bad row may go on without it: the setting is none that the rows before follow from."""
    rows = {**DATA, "agent": [(5, True)] * 30}
    strict = stream_of({**rows, "general": [(6, True)] * 40 + ["bad"] * 2}, unit=unit)
    next(strict)
    skip = stream_of({**rows, "general": [(6, True)] * 40 + ["bad"] * 2}, unit=unit, on_error="skip")
    skip.restore(json.loads(json.dumps(strict.cursor())))
    for _ in range(30):
        next(skip)
    assert skip.report()[1].bad == {"bad": 2}


def test_the_quarantine_file_holds_each_once_also_after_a_resume(tmp_path: Path):
    stream = stream_of(DATA, on_error="skip")
    quarantine = Quarantine(tmp_path, 0)
    while stream.state().bad_rows() < 4:
        next(stream)
        if rows := stream.take_bad_rows():
            quarantine.add(rows)
    cursor = json.loads(json.dumps(stream.cursor()))
    for _ in range(30):  # these are lost
        next(stream)
        if rows := stream.take_bad_rows():
            quarantine.add(rows)
    again = stream_of(DATA, on_error="skip")
    again.restore(cursor)
    quarantine = Quarantine(tmp_path, again.state().bad_rows())
    for _ in range(30):
        next(again)
        if rows := again.take_bad_rows():
            quarantine.add(rows)
    lines = [json.loads(line) for line in quarantine.path.read_text().splitlines()]
    assert Counter((line["source"], line["line"]) for line in lines) == Counter(
        (name, i + 1) for name, rows in DATA.items() for i, row in enumerate(rows) if isinstance(row, str)
    )
    assert lines[0].keys() == {"number", "source", "file", "line", "row", "reason", "message"}


def test_what_another_run_has_counted_is_not_in_the_file(tmp_path: Path):
    """A run that began with its checkpoint, after five rows, comes back to step 0 of its own, and to a later one."""
    for known in (5, 5, 7):
        quarantine = Quarantine(tmp_path, known)
        quarantine.add(bad_rows(known + 1, 9))
        lines = [json.loads(line) for line in quarantine.path.read_text().splitlines()]
        assert [(line["number"], line["line"]) for line in lines] == [(n, n) for n in range(6, 10)]


@pytest.mark.parametrize("torn", [b"\0\0\0\n", b"{}\n", b'{"number": 3', b"[1]\n"])
def test_a_line_that_a_power_cut_has_spoilt_is_cut(torn: bytes, tmp_path: Path):
    Quarantine(tmp_path, 0).add(bad_rows(1, 2))
    with (tmp_path / "quarantine.jsonl").open("ab") as file:
        file.write(torn)
    quarantine = Quarantine(tmp_path, 3)
    quarantine.add(bad_rows(4, 4))
    assert [json.loads(line)["line"] for line in quarantine.path.read_text().splitlines()] == [1, 2, 4]


def bad_rows(first: int, last: int) -> list[BadRow]:
    return [bad_row("mine", DataError("no JSON", Where("a.jsonl", line))) for line in range(first, last + 1)]


def test_the_log_is_told_at_doubling_counts_with_an_example_and_of_all_at_the_end(tmp_path: Path):
    quarantine = Quarantine(tmp_path, 0)
    assert quarantine.add([], ends=True) == ""
    told = {line: quarantine.add(bad_rows(line, line)) for line in range(1, 1001)}
    assert [line for line, said in told.items() if said] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]
    assert told[64] == (
        f"64 bad row(s) left out so far, each told in {quarantine.path}; the latest: a.jsonl:64: no JSON"
    )
    assert quarantine.add([]) == ""
    assert (
        quarantine.add([], ends=True) == f"1,000 bad row(s) left out in all, each told in {quarantine.path}"
    )
    assert len(quarantine.path.read_text().splitlines()) == 1000


def test_many_at_once_and_a_resumed_run_are_told_at_doubling_counts_too(tmp_path: Path):
    quarantine = Quarantine(tmp_path, 0)
    told = [bool(quarantine.add(bad_rows(*lines))) for lines in ((1, 3), (4, 5), (6, 20), (21, 39), (40, 40))]
    assert told == [True, False, True, False, True]
    resumed = Quarantine(tmp_path, 30)
    assert resumed.add([]) == ""
    assert resumed.add(bad_rows(31, 31)).startswith("31 bad row(s) left out so far")
    assert resumed.add(bad_rows(32, 61)) == ""
    assert resumed.add(bad_rows(62, 62)).endswith("the latest: a.jsonl:62: no JSON")
    last = [json.loads(line)["line"] for line in resumed.path.read_text().splitlines()]
    assert last == [*range(1, 63)]


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("no JSON: Extra data (column 12); a file is one array", "no JSON: Extra data (column …)"),
        (
            "message 3 holds '[INST]', which is the template's own mark; mend it",
            "message … holds …, which is the template's own mark",
        ),
        (
            "message 1 is the assistant's, but the user's 'x' is not",
            "message … is the assistant's, but the user's … is not",
        ),
        ('keys "a" and "b" are 2', "keys … and … are …"),
    ],
)
def test_a_reason_is_what_messages_of_one_kind_share(message: str, kind: str):
    assert reason(message) == kind


def test_reasons_are_few():
    reasons: dict[str, int] = {}
    for i in range(100):
        reasons = counted(reasons, f"reason {chr(65 + i % 26)}{chr(65 + i % 25)}")
    assert len(reasons) == 31
    assert sum(reasons.values()) == 100
    assert reasons[OTHER] > 0
    assert told({"a": 1, "b": 1200, "c": 1}) == "1,200 x b, 1 x a, 1 x c"


def test_a_row_of_a_table_has_no_line():
    row = bad_row("mine", DataError("no conversation; mend it", Where("a.parquet", None, 3)))
    assert (row.line, row.row, str(row)) == (None, 3, "a.parquet (row 3): no conversation; mend it")


def test_of_hostile_lines_exactly_the_bad_ones_are_left_out(tmp_path: Path):
    """R15 where bad rows are skipped: all that cannot be read or rendered, each once, by file and line."""
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"".join(hostile_lines(Random(5), LINES)))
    config = DataConfig(
        sources=[SourceConfig("hostile", str(path), "agent")],
        eta=1,
        sequence_length=256,
        on_error="skip",
        max_bad_rows=LINES,
    )
    builder = SampleBuilder(Encoder.from_folder(TOKENIZER))
    (source,) = [open_source(each) for each in config.sources]
    expected: list[int | None] = []
    for i in range(len(source)):
        try:
            row, where = source.row(i)
            builder.build(row, source="hostile", format="auto", where=where, default_id=str(i))
        except DataError as error:
            expected.append(error.where.line if error.where else -1)
    assert len(expected) > len(source) / 3
    stream = RowStream([source], builder, config, 1, builder.encoder.pad_id)
    found: list[int | None] = []
    while stream.seen(1) != 1:
        next(stream)
        found += [row.line for row in stream.take_bad_rows()]
    assert sorted(found, key=str) == sorted(expected, key=str)
    (report,) = stream.report()
    assert sum(report.bad.values()) == len(expected)
    assert report.drawn >= len(source)


def test_the_row_that_was_one_too_many_is_told_too():
    """Prefetch hands over what was left out on the way to the batch that could not be made."""
    prefetch = Prefetch(stream_of(DATA, on_error="skip", max_bad_rows=3), 4)
    found: list[BadRow] = []
    error = None
    try:
        for fetched in prefetch:
            found += fetched.bad_rows
    except DataError as raised:
        error = raised
    assert str(error).startswith("4 bad rows")
    assert len([*found, *prefetch.bad_rows]) == 4
    prefetch.close()
