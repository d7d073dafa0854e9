"""Batches made ahead are the stream's, with where it stood after each."""

from __future__ import annotations

import threading
import time
from typing import Any

from streams import Row, same, stream_of

from tokenization.errors import DataError
from trainer.data.epochs import count_rows
from trainer.data.micro_batch import global_batches
from trainer.data.prefetch import Prefetch
from trainer.data.report import table

DATA: dict[str, list[Row]] = {
    "agent": [(5 + i % 20, True) for i in range(40)],
    "general": [(3 + i % 9, True) if i != 20 else "bad; mend it" for i in range(90)],
}


def test_batches_states_and_bad_rows_are_those_of_the_stream():
    plain = stream_of(DATA, on_error="skip")
    batches = global_batches(plain, 4)
    prefetch = Prefetch(stream_of(DATA, on_error="skip"), 4)
    try:
        for _ in range(30):
            batch, state, bad_rows = next(prefetch)
            assert all(same(a, b) for a, b in zip(batch.rows, next(batches).rows, strict=True))
            assert state.to_json() == plain.state().to_json()
            assert bad_rows == plain.take_bad_rows()
    finally:
        prefetch.close()


def test_only_one_batch_is_made_ahead():
    stream = stream_of(DATA, on_error="skip")
    prefetch = Prefetch(stream, 4)
    next(prefetch)
    time.sleep(0.2)
    assert stream.state().row <= 12  # the one taken, the one that waits, and one in the making
    prefetch.close()


def test_an_error_comes_when_its_batch_is_asked_for():
    good = global_batches(stream_of(DATA, on_error="skip"), 1)
    prefetch = Prefetch(stream_of(DATA), 1)
    error = None
    try:
        for taken, batch in enumerate(prefetch):
            assert same(batch.batch.rows[0], next(good).rows[0])
            assert taken < 100
    except DataError as raised:
        error = raised
    assert str(error).startswith("memory:21: bad")
    assert next(good).rows[0].index > 0
    prefetch.close()


def test_closing_ends_the_thread():
    before = threading.active_count()
    for _ in range(3):
        prefetch = Prefetch(stream_of(DATA, on_error="skip"), 2)
        next(prefetch)
        prefetch.close()
    assert threading.active_count() == before


def test_a_copy_of_the_state_stands_still():
    stream = stream_of(DATA, on_error="skip")
    next(stream)
    state = stream.state()
    then = state.to_json()
    kept: list[Any] = [stream.report(state), stream.cursor(state)]
    for _ in range(20):
        next(stream)
    assert state.to_json() == then
    assert [stream.report(state), stream.cursor(state)] == kept
    assert stream.cursor() != kept[1]


def test_the_table_of_what_was_drawn():
    stream = stream_of({"agent": [(40, True)] * 2, "general": [(8, True), (6, False)]}, window=2, eta=0.25)
    while stream.state().row < 3:
        next(stream)
    lines = [line.split("  ") for line in table(stream.report()).splitlines()]
    heading, agent, general = [[cell.strip() for cell in line if cell] for line in lines]
    assert heading == [
        *("source", "asked", "drawn", "share", "epochs", "targets", "share", "in rows", "tokens", "fill"),
        *("cut", "no target", "targets lost"),
    ]
    report = {r.name: r for r in stream.report()}
    a, g = report["agent"], report["general"]
    assert agent[:5] == [
        "agent",
        "25.0%",
        str(a.drawn),
        f"{a.drawn / (a.drawn + g.drawn):.2%}",
        f"{a.drawn / 2:.2f}",
    ]
    assert agent[10:] == [
        str(a.drawn),
        "0",
        str(6 * a.drawn),
    ]  # 26 targets in 40 tokens, 20 in the 30 that are kept
    assert general[-2] == str(g.counts.no_targets)


def test_counting_shows_how_far_it_is():
    parts: list[float] = []
    data: dict[str, list[Row]] = {"agent": [(30, True)] * 400, "general": [(30, True)] * 300}
    rows = count_rows(stream_of(data), 2, parts.append)
    assert 1590 < rows < 1700  # 800 of each source: the general one is the one seen longest
    assert parts == sorted(parts)
    assert 0 < parts[0] < parts[-1] < 1
