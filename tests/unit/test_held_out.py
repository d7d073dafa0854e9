"""Which rows are held out, that none of them is trained on, and the rows that an evaluation looks at."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from itertools import islice
from math import ceil
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from streams import PAD, FakeBuilder, Row, Rows, stream_of

from configs.errors import ConfigError
from configs.schema import Config, DataConfig, EvaluationConfig, SourceConfig
from tokenization.errors import DataError
from trainer.data.held_out import HeldOut, open_held_out
from trainer.data.micro_batch import GlobalBatch
from trainer.data.open import Data
from trainer.data.order import SourceOrder, held_out_count, held_out_order
from trainer.data.packing import pack_row
from trainer.data.rows import IGNORED
from trainer.data.sources import Source

LENGTH = 32


class Builder(FakeBuilder):
    encoder = SimpleNamespace(pad_id=PAD)


def config_of(rows: dict[str, list[Row]], /, data: dict[str, Any] | None = None, **wanted: Any) -> Config:
    sources = [SourceConfig(name, "memory", "agent" if name.startswith("a") else "general") for name in rows]
    settings = {"sources": sources, "eta": 0.5, "sequence_length": LENGTH} | (data or {})
    return Config(data=DataConfig(**settings), evaluation=EvaluationConfig(**wanted))


def data_of(rows: dict[str, list[Row]]) -> Data:
    sources = [Source(name, "", "auto", [Rows(content)]) for name, content in rows.items()]
    return Data(cast(Any, Builder()), sources, [], None)


def looked_at(rows: dict[str, list[Row]], /, data: dict[str, Any] | None = None, **wanted: Any) -> HeldOut:
    return open_held_out(config_of(rows, data, **wanted), data_of(rows))


def held_out(source: str, rows: int, share: float) -> list[int]:
    """By the rule."""
    return held_out_order(source, rows, np.arange(held_out_count(rows, share))).tolist()


@settings(deadline=None, max_examples=25)
@given(
    sizes=st.lists(st.integers(1, 30), min_size=2, max_size=3),
    share=st.sampled_from([0.0, 0.01, 0.1, 0.25, 0.5, 0.9]),
    seed=st.integers(0, 1000),
)
def test_what_is_held_out_is_never_trained_on(sizes: list[int], share: float, seed: int) -> None:
    """Over two passes and more, whatever the seed; all else is."""
    rows: dict[str, list[Row]] = {f"{'ab'[i % 2]}{i}": [(16, True)] * size for i, size in enumerate(sizes)}
    config = config_of(rows, {"pack_window": 4}, held_out=share)
    config = replace(config, run=replace(config.run, seed=seed))
    stream = data_of(rows).stream(config)
    drawn: set[tuple[str, str]] = set()
    while stream.seen(2) < 1:
        drawn |= {*next(stream).samples}
    apart = {(name, str(row)) for name, all in rows.items() for row in held_out(name, len(all), share)}
    assert not drawn & apart
    assert drawn | apart == {(name, str(row)) for name, all in rows.items() for row in range(len(all))}


@settings(deadline=None, max_examples=60)
@given(
    rows=st.integers(1, 3000), share=st.sampled_from([0.0, 0.001, 0.02, 0.3, 0.7]), seed=st.integers(0, 99)
)
def test_each_pass_draws_each_other_row_once(rows: int, share: float, seed: int) -> None:
    count = held_out_count(rows, share)
    assert count == min(ceil(Fraction(str(share)) * rows), rows - 1)
    order = SourceOrder(seed, "a", rows, count)
    assert order.rows == rows - count
    apart = {*held_out("a", rows, share)}
    assert len(apart) == count
    for epoch in range(2):
        drawn = [order.row(epoch * order.rows + place) for place in range(order.rows)]
        assert sorted(drawn) == [row for row in range(rows) if row not in apart]


def test_without_a_share_nothing_is_another_than_before() -> None:
    rows: dict[str, list[Row]] = {"a": [(5, True)] * 40, "b": [(7, True)] * 30}
    config = config_of(rows)
    plain = stream_of(rows, seed=config.run.seed, window=config.data.pack_window)
    stream = data_of(rows).stream(config)
    for _ in range(30):
        assert next(stream).samples == next(plain).samples
    assert stream.identity == plain.identity
    assert "evaluation.held_out" not in plain.identity
    assert SourceOrder(3, "a", 50).row(7) == SourceOrder(3, "a", 50, 0).row(7)


@pytest.mark.parametrize(("then", "now"), [(0.0, 0.1), (0.1, 0.0), (0.1, 0.2)])
def test_a_checkpoint_of_another_share_is_refused(then: float, now: float) -> None:
    rows: dict[str, list[Row]] = {"a": [(5, True)] * 40, "b": [(7, True)] * 30}
    cursor = data_of(rows).stream(config_of(rows, held_out=then)).cursor()
    with pytest.raises(ConfigError, match=f"evaluation.held_out: {now:g}.* now.*made with {then:g}"):
        data_of(rows).stream(config_of(rows, held_out=now)).restore(cursor)
    data_of(rows).stream(config_of(rows, held_out=then)).restore(cursor)


def test_an_evaluation_looks_at_what_is_held_out() -> None:
    rows: dict[str, list[Row]] = {"a": [(5, True)] * 40, "b": [(7, True)] * 60}
    found = looked_at(rows, held_out=0.1)
    samples = [sample for row in found.rows for sample in row.samples]
    a, b = held_out("a", 40, 0.1), held_out("b", 60, 0.1)
    assert (len(a), len(b)) == (4, 6)
    in_turn = [("a", a[0]), ("b", b[0]), ("a", a[1]), ("b", b[1]), ("a", a[2]), ("b", b[2])]
    in_turn += [("a", a[3]), ("b", b[3]), ("b", b[4]), ("b", b[5])]
    assert samples == [(name, str(row)) for name, row in in_turn]
    assert found.sources == ("a", "b")
    assert [row.index for row in found.rows] == [0, 1, 2]
    assert [row.filled for row in found.rows] == [5 + 7 + 5 + 7 + 5, 7 + 5 + 7 + 7, 7]
    for row in found.rows:
        assert {*row.sources[: row.filled]} <= {0, 1}


def test_only_so_many_rows() -> None:
    rows: dict[str, list[Row]] = {"a": [(20, True)] * 40, "b": [(20, True)] * 40}
    all_rows = looked_at(rows, held_out=0.5, rows=100)
    assert len(all_rows.rows) == 40
    few = looked_at(rows, held_out=0.5, rows=3)
    assert [row.samples for row in few.rows] == [row.samples for row in all_rows.rows[:3]]
    assert few.hash != all_rows.hash


def test_a_source_without_a_share_is_not_looked_at() -> None:
    rows: dict[str, list[Row]] = {"a": [(20, True)] * 40, "b": [(20, True)] * 40}
    found = looked_at(rows, data={"eta": 1}, held_out=0.1)
    assert {name for row in found.rows for name, _ in row.samples} == {"a"}


def test_bad_rows_are_met_as_data_on_error_says(capsys: pytest.CaptureFixture[str]) -> None:
    rows: dict[str, list[Row]] = {"a": ["no list"] * 6, "b": [(20, True)] * 6}
    with pytest.raises(DataError, match="no list"):
        looked_at(rows, held_out=0.5)
    found = looked_at(rows, data={"on_error": "skip"}, held_out=0.5)
    assert {name for row in found.rows for name, _ in row.samples} == {"b"}
    assert "an evaluation leaves out memory" in capsys.readouterr().err
    none: dict[str, list[Row]] = {"a": [(20, False)] * 6, "b": [(20, False)] * 6}
    with pytest.raises(DataError, match=r"evaluation.held_out=0.5: none of the rows has a target"):
        looked_at(none, held_out=0.5)


def test_empty_rows_make_the_batch_even() -> None:
    rows: dict[str, list[Row]] = {"a": [(20, True)] * 20, "b": [(20, True)] * 20}
    found = looked_at(rows, held_out=0.5, rows=5)
    batch = GlobalBatch(found.padded(4))
    assert batch.rows[:5] == found.rows
    assert [row.index for row in batch.rows] == list(range(8))
    for row in batch.rows[5:]:
        assert (row.filled, row.samples) == (0, ())
        assert (row.labels == IGNORED).all()
        assert (row.tokens == PAD).all()
        assert row.positions.tolist() == list(range(LENGTH))
    assert found.padded(5) == found.rows
    micro = list(islice(batch.micro_batches(1, 2, 2), 2))
    assert [len(each.tokens) for each in micro] == [2, 2]


def test_a_schedule_that_needs_micro_batches_gets_empty_ones() -> None:
    rows = tuple(pack_row([], [], index=index, length=8, pad_id=0) for index in range(3))
    found = HeldOut(rows, ("a",), "", 0)
    assert [row.index for row in found.padded(2)] == [0, 1, 2, 3]
    assert [row.index for row in found.padded(2, 4)] == list(range(8))
    assert all(row.filled == 0 for row in found.padded(2, 4))
