from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from streams import PAD, FakeBuilder, Rows, same, stream_of

from configs.errors import ConfigError
from configs.schema import DataConfig, SourceConfig
from tokenization.builder import SampleBuilder
from tokenization.encoder import Encoder
from tokenization.errors import DataError, Where
from tokenization.length import Fitted
from trainer.data.epochs import count_rows
from trainer.data.row_index import FileStamp
from trainer.data.rows import IGNORED
from trainer.data.sources import Source, open_source
from trainer.data.stream import RowStream

DATA = Path(__file__).parents[2] / ".." / "shared" / "data"


source_rows = st.lists(st.tuples(st.integers(1, 45), st.booleans()), min_size=1, max_size=12).map(
    lambda rows: [*rows, (8, True)]
)
two_sources = st.fixed_dictionaries({"agent": source_rows, "general": source_rows})


@settings(deadline=None, max_examples=60)
@given(
    rows=two_sources,
    eta=st.sampled_from([0.0, 0.2, 0.5, 1.0]),
    window=st.integers(1, 20),
    too_long=st.sampled_from(["truncate", "drop"]),
    unit=st.sampled_from(["samples", "targets"]),
)
def test_every_sample_drawn_is_whole_in_one_row(rows, eta: float, window: int, too_long: str, unit: str):
    stream = stream_of(rows, eta=eta, window=window, too_long=too_long, unit=unit)
    placed: Counter[tuple[str, str]] = Counter()
    for index in range(25):
        row = next(stream)
        assert row.index == index
        assert len(row.tokens) == 32
        assert 0 < row.filled <= 32
        assert (row.tokens[row.filled :] == PAD).all()
        assert (row.labels[row.filled :] == IGNORED).all()
        starts = [*np.flatnonzero(row.positions[: row.filled] == 0), row.filled]
        assert len(starts) == len(row.samples) + 1
        for (name, id), start, stop in zip(row.samples, starts, starts[1:], strict=False):
            length, trained = rows[name][int(id)]
            if length > 32:  # the last whole turn of three that fits
                assert too_long == "truncate"
                length = 30
            expected = np.arange(length) + 1000 * int(id) + 100_000 * ord(name[0])
            assert row.tokens[start:stop].tolist() == expected.tolist()
            assert trained
            assert (row.labels[start:stop] != IGNORED).tolist() == (np.arange(length) % 3 > 0).tolist()
            assert (row.sources[start:stop] == list(rows).index(name)).all()
            placed[name, id] += 1
    cursor = stream.cursor()
    waiting = Counter(source for source, *_ in cursor["waiting"])
    assert cursor["targets"] == [report.targets for report in stream.report()]
    for i, (name, content) in enumerate(rows.items()):
        report = stream.report()[i]
        in_rows = sum(count for (source, _), count in placed.items() if source == name)
        left_out = report.counts.dropped_long + report.counts.no_targets
        assert report.packed.samples == in_rows
        assert report.drawn == cursor["draws"][i] == in_rows + waiting[i] + left_out
        assert report.drawn == report.counts.kept + report.counts.truncated + left_out
        times = [placed[name, str(k)] for k, (n, t) in enumerate(content) if t and n > 1 and n <= 32]
        passes = report.drawn / len(content)
        assert all(passes - 1 - waiting[i] <= count <= passes + 1 for count in times)
    part = {"agent": Fraction(str(eta)), "general": 1 - Fraction(str(eta))}
    for report in stream.report():
        if unit == "samples":
            assert abs(report.drawn - sum(cursor["draws"]) * part[report.name]) < 1
        else:  # no sample has more than 21 targets
            assert abs(report.targets - sum(cursor["targets"]) * part[report.name]) <= 21


@settings(deadline=None, max_examples=40)
@given(
    rows=two_sources,
    seed=st.integers(0, 10),
    window=st.integers(1, 20),
    too_long=st.sampled_from(["truncate", "window"]),
    unit=st.sampled_from(["samples", "targets"]),
    stops=st.lists(st.integers(0, 9)),
)
def test_a_restored_stream_goes_on_exactly(
    rows, seed: int, window: int, too_long: str, unit: str, stops: list[int]
):
    settings: dict[str, Any] = {"seed": seed, "window": window, "too_long": too_long, "unit": unit}
    whole, broken = stream_of(rows, **settings), stream_of(rows, **settings)
    for stop in [*stops, 5]:
        for _ in range(stop):
            assert same(next(whole), next(broken))
        cursor = json.loads(json.dumps(broken.cursor()))
        broken = stream_of(rows, **settings)
        next(broken)  # what it did before does not matter
        broken.restore(cursor)
        assert broken.cursor() == whole.cursor() == cursor
        assert broken.report() == whole.report()


def test_the_hash_is_that_of_the_samples_in_row_order():
    stream = stream_of({"agent": [(7, True), (11, True)], "general": [(5, True), (20, True), (9, True)]})
    expected = ""
    for row in [next(stream) for _ in range(12)]:
        starts = [*np.flatnonzero(row.positions[: row.filled] == 0), row.filled]
        for (source, id), start, stop in zip(row.samples, starts, starts[1:], strict=False):
            raw = b"".join(int(token).to_bytes(4, "little") for token in row.tokens[start:stop])
            raw += bytes(int(label != IGNORED) for label in row.labels[start:stop])
            tokens = hashlib.blake2b(raw, digest_size=16).hexdigest()
            link = f'["{expected}", "{source}", "{id}", {stop - start}, "{tokens}"]'
            expected = hashlib.blake2b(link.encode(), digest_size=16).hexdigest()
    assert stream.cursor()["hash"] == expected


def test_the_seed_changes_the_order_and_nothing_else():
    rows = {"agent": [(n, True) for n in range(3, 20)], "general": [(n, True) for n in range(3, 30)]}
    one, again, other = (stream_of(rows, seed=seed) for seed in (1, 1, 2))
    ours = [[next(s).samples for _ in range(40)] for s in (one, again, other)]
    assert ours[0] == ours[1] != ours[2]


def test_a_source_without_a_share_is_never_read():
    class Unreadable(Rows):
        def row(self, i: int) -> tuple[object, Where]:
            raise AssertionError

    stream = stream_of({"agent": [(3, True)], "general": [(5, True)]}, eta=0)
    stream._sources[0]._files = [Unreadable([(3, True)])]  # pyright: ignore[reportPrivateUsage]
    assert {name for _ in range(20) for name, _ in next(stream).samples} == {"general"}
    assert count_rows(stream, 1) == 0


@pytest.mark.parametrize(
    ("barren", "too_long", "words"),
    [
        ([(9, False), (4, False)], "truncate", "2 have no target, 0 do not fit"),
        (
            [(40, True), (9, False), (50, True)],
            "drop",
            "1 have no target, 2 do not fit into data.sequence_length 32",
        ),
    ],
)
def test_a_source_that_gives_nothing_is_an_error_not_an_endless_loop(barren, too_long: str, words: str):
    stream = stream_of({"agent": barren, "general": [(8, True)] * 20}, too_long=too_long)
    with pytest.raises(DataError, match="source 'agent': none of its") as caught:
        [next(stream) for _ in range(20)]
    assert words in str(caught.value)


def test_a_bad_row_is_named_when_it_is_drawn():
    class Bad(FakeBuilder):
        def fitted(self, row: object, *, where: Where, **rest: object) -> Fitted:
            raise DataError("no conversation", where)

    stream = stream_of({"agent": [(3, True)], "general": [(5, True)]})
    stream.samples._builder = Bad()  # pyright: ignore[reportPrivateUsage]
    with pytest.raises(DataError, match=r"^memory:1: no conversation$"):
        next(stream)


@settings(deadline=None, max_examples=40)
@given(rows=two_sources, epochs=st.sampled_from([0.5, 1, 2, 2.5]), window=st.integers(1, 12))
def test_counted_rows_show_each_source_often_enough_and_none_too_many(rows, epochs: float, window: int):
    counted = count_rows(stream_of(rows, window=window), epochs)
    stream = stream_of(rows, window=window)
    needed = [math.ceil(epochs * len(content)) for content in rows.values()]
    placed: Counter[tuple[str, str]] = Counter()
    for left in reversed(range(counted)):
        placed.update(next(stream).samples)
        cursor = stream.cursor()
        owed = any(drawn < need for drawn, need in zip(cursor["draws"], needed, strict=True))
        owed |= any(k < needed[source] for source, k, *_ in cursor["waiting"])
        assert owed == (left > 0)
    for name, content in rows.items():
        usable = [str(i) for i, (length, trained) in enumerate(content) if trained and length > 1]
        assert all(placed[name, id] >= int(epochs) for id in usable)


def test_a_cursor_of_another_stream_is_refused():
    rows = {"agent": [(7, True), (11, True)], "general": [(5, True), (20, True)]}
    stream = stream_of(rows)
    next(stream)
    cursor = stream.cursor()
    changes = {
        "run.seed": stream_of(rows, seed=2),
        "data.sequence_length": stream_of(rows, length=33),
        "data.pack_window": stream_of(rows, window=7),
        "data.too_long": stream_of(rows, too_long="drop"),
        "data.sources and the shares by data.eta": stream_of(rows, eta=0.4),
        "data.eta_unit": stream_of(rows, unit="targets"),
    }
    for key, other in changes.items():
        with pytest.raises(ConfigError, match=f"^{key}: .* now, but .* made with") as caught:
            other.restore(cursor)
        if "shares" in key:
            assert "agent 2/5, general 3/5 now" in str(caught.value)


def test_changed_data_is_refused_with_the_files_name():
    rows = {"agent": [(7, True), (11, True)], "general": [(5, True), (20, True)]}
    stream = stream_of(rows)
    next(stream)
    cursor = json.loads(json.dumps(stream.cursor()))
    changed = {**rows, "general": [(5, True), (21, True)]}
    with pytest.raises(
        DataError, match=r"^folder/memory: changed since the checkpoint was made: 2 rows with digest"
    ):
        stream_of(changed).restore(cursor)
    with pytest.raises(DataError, match=r"^folder/memory: changed .*: 3 rows with digest \w{32} now, 2"):
        stream_of({**rows, "general": [*rows["general"], (9, True)]}).restore(cursor)
    with pytest.raises(DataError) as caught:
        stream_of(changed).check_cursor(cursor, Path("runs/mine/checkpoints/step-00000004"))
    way_round = (
        "model.path=runs/mine/checkpoints/step-00000004 run.output_dir=NEW_FOLDER checkpoint.resume=auto"
    )
    assert way_round in str(caught.value)  # which test_resume.py obeys

    def with_files(*files: tuple[str, Sequence[tuple[int, bool]]]) -> RowStream:
        class Named(Rows):
            def __init__(self, name: str, rows: Sequence[tuple[int, bool]]) -> None:
                super().__init__(rows)
                self.name = name

            @property
            def stamp(self) -> FileStamp:
                return FileStamp(f"data/{self.name}", len(self), super().stamp.digest)

        config = DataConfig(sources=[SourceConfig(name="a", path="-", role="agent")], eta=1)
        source = Source("a", "agent", "auto", [Named(*file) for file in files])
        return RowStream([source], FakeBuilder(), config, 1, PAD)

    one, two = ("one", [(3, True)] * 4), ("two", [(4, True)] * 4)
    cursor = with_files(one, two).cursor()
    with_files(one, two).restore(cursor)
    with pytest.raises(DataError, match=r"^data/three: not among the files of source 'a'.*\(one, two\)"):
        with_files(one, two, ("three", [(3, True)])).restore(cursor)
    with pytest.raises(DataError, match=r"^source 'a': two was among its files"):
        with_files(one).restore(cursor)
    with pytest.raises(DataError, match=r"^data/two: not among"):
        with_files(two, one).restore(cursor)


def test_other_tokens_of_waiting_samples_are_refused():
    """As another version of the tokenizer's library would give them: same data, same settings."""

    class Other(FakeBuilder):
        def fitted(self, row: object, **settings: Any) -> Fitted:
            fitted = super().fitted(row, **settings)
            return replace(fitted, samples=tuple(replace(s, tokens=s.tokens + 1) for s in fitted.samples))

    rows = {"agent": [(7, True), (11, True)], "general": [(5, True), (20, True)]}
    stream, other = stream_of(rows), stream_of(rows)
    next(stream)
    other.samples._builder = Other()  # pyright: ignore[reportPrivateUsage]
    with pytest.raises(DataError, match=r"^the \d samples that await a row have other tokens"):
        other.restore(stream.cursor())


def test_names_must_differ_and_match_the_config():
    config = DataConfig(sources=[SourceConfig(name="a", path="-", role="general")] * 2, eta=0)
    twice = [Source("a", "general", "auto", [Rows([(3, True)])])] * 2
    with pytest.raises(ConfigError, match="a, a"):
        RowStream(twice, FakeBuilder(), config, 1, PAD)
    with pytest.raises(ValueError, match="not those of the config"):
        RowStream(twice[:1], FakeBuilder(), config, 1, PAD)


@pytest.mark.skipif(not DATA.is_dir(), reason="needs the real data in ../shared/data")
def test_real_conversations_fill_rows_of_4096():
    config = DataConfig(
        sources=[
            SourceConfig("db", str(DATA / "conversations/agentinstruct_db.json"), "agent"),
            SourceConfig("sharegpt", str(DATA / "conversations/sharegpt_general.json"), "general"),
        ],
        eta=0.2,
    )
    encoder = Encoder.from_folder(DATA / "llama2_tokenizer" / "tokenizer.model")
    builder = SampleBuilder(encoder)
    streams = [
        RowStream([open_source(source) for source in config.sources], builder, config, 1234, encoder.pad_id)
        for _ in range(2)
    ]
    rows = [next(streams[0]) for _ in range(100)]
    streams[1].restore(json.loads(json.dumps(streams[0].cursor())))
    assert same(next(streams[0]), next(streams[1]))
    assert len(json.dumps(streams[0].cursor())) < 8192
    for report in streams[0].report():
        print(report)
    db, general = streams[0].report()
    fill = sum(row.filled for row in rows) / (4096 * len(rows))
    print(f"fill {fill:.6f}")
    assert fill >= 0.9995
    assert abs(db.drawn - (db.drawn + general.drawn) / 5) <= 1
    for row in rows:
        assert (row.tokens[row.positions == 0][: len(row.samples)] == encoder.bos).all()
        assert (row.labels[row.positions == 0] == IGNORED).all()
