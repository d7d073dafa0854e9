"""Workers that tokenise ahead: each draw by one of them, in time, and the same stream whatever becomes of them."""

from __future__ import annotations

import os
import signal
import time
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from streams import FakeBuilder, Row, same, stream_of

import trainer.data.samples
from tokenization.length import Fitted
from trainer.data import ahead
from trainer.data.ahead import Ahead, start_workers
from trainer.data.position import Position
from trainer.data.rows import PackedRow
from trainer.data.stream import RowStream

DATA: dict[str, list[Row]] = {
    "agent": [(5 + i % 20, True) for i in range(300)],
    "general": [(3 + i % 9, True) if i % 50 else "no conversation" for i in range(900)],
}


class Slow(FakeBuilder):
    """Takes a while, and knows in which process it made what."""

    def __init__(self, seconds: float = 0.002) -> None:
        self.seconds = seconds
        self.here = os.getpid()
        self.made_here = 0

    def fitted(self, row: object, **settings: Any) -> Fitted:
        time.sleep(self.seconds)
        self.made_here += os.getpid() == self.here
        return super().fitted(row, **settings)


def _stream(folder: Path, workers: int, builder: FakeBuilder | None = None) -> RowStream:
    position = Position(folder / "position", len(DATA), workers, writes=True)
    return stream_of(
        DATA, stores=folder, position=position, builder=builder, on_error="skip", max_bad_rows=1000, window=8
    )


def _reference(rows: int) -> list[PackedRow]:
    stream = stream_of(DATA, on_error="skip", max_bad_rows=1000, window=8)
    return [next(stream) for _ in range(rows)]


def _gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state == "Z"


def _wait(until: Any, seconds: float = 20) -> bool:
    given_up = time.monotonic() + seconds
    while time.monotonic() < given_up:
        if until():
            return True
        time.sleep(0.01)
    return False


def test_each_draw_is_made_once_the_soonest_first_and_no_more_than_may_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(ahead, "AHEAD", 50)
    made: list[tuple[int, int]] = []
    stream = _stream(tmp_path, 3)
    samples, shares = stream.samples, [Fraction(1, 5), Fraction(4, 5)]
    monkeypatch.setattr(samples, "row_of", lambda i, k: made.append((i, k)) or k)
    workers = [Ahead(samples, shares, worker, 3) for worker in range(3)]
    while sum(worker.step() for worker in workers):
        pass
    # 50 draws of the mixture are ten and forty of the sources.
    assert sorted(made) == [(0, k) for k in range(10)] + [(1, k) for k in range(40)]
    dues = [k / float(shares[i]) for i, k in made]
    assert all(later >= earlier - 3 / min(map(float, shares)) for earlier, later in pairwise(dues))
    samples.tell(1, 100)
    made.clear()
    while sum(worker.step() for worker in workers):
        pass
    assert sorted(made) == [(1, k) for k in range(100, 140)]
    # A stream that begins again, as when epochs are counted before a resumed run: what it passed over is made too.
    samples.tell(1, 0)
    made.clear()
    while sum(worker.step() for worker in workers):
        pass
    assert sorted(made) == [(1, k) for k in range(40)]


def test_a_stream_that_begins_again_is_not_kept_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Restored far on, then counted from the start with a store that knows nothing of it."""
    monkeypatch.setattr(ahead, "AHEAD", 100)
    stream = _stream(tmp_path, 1, Slow(0.0005))
    for i in range(2):
        stream.samples.tell(i, 150)
    workers = start_workers(stream, 1)
    try:
        assert _wait(lambda: stream.samples.stores[0].has(stream.samples.row_of(0, 190)))
        for i in range(2):
            stream.samples.tell(i, 0)
        begun = time.monotonic()
        assert all(same(next(stream), row) for row in _reference(30))
        assert time.monotonic() - begun < 8  # one wait that is given up takes 10 s
    finally:
        for worker in workers:
            worker.terminate()
            worker.join()


def test_a_worker_at_something_else_is_waited_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(trainer.data.samples, "_PATIENCE", 0.2)
    stream = _stream(tmp_path, 1)
    assert stream.samples.position
    monkeypatch.setattr(stream.samples.position, "attended", lambda: True)
    begun = time.monotonic()
    assert all(same(next(stream), row) for row in _reference(30))
    assert 0.2 < time.monotonic() - begun < 2


def test_a_source_without_a_share_is_left_alone(tmp_path: Path):
    stream = _stream(tmp_path, 1)
    worker = Ahead(stream.samples, [Fraction(0), Fraction(1)], 0, 1)
    while worker.step():
        pass
    assert not any(stream.samples.stores[0].has(row) for row in range(300))


def test_the_rank_takes_what_workers_made(tmp_path: Path):
    reference = [
        next(stream)
        for stream in [stream_of(DATA, on_error="skip", max_bad_rows=1000, window=8)]
        for _ in range(60)
    ]
    builder = Slow()
    stream = _stream(tmp_path, 2, builder)
    workers = start_workers(stream, 2)
    try:
        assert _wait(lambda: stream.samples.position and stream.samples.position.attended())
        assert all(same(next(stream), row) for row in reference)
        bad = sum(isinstance(row, str) for row in DATA["general"])
        assert builder.made_here <= bad  # what is wrong with a row is found out anew by whoever draws it
    finally:
        for worker in workers:
            worker.terminate()
            worker.join()


def test_workers_that_are_killed_are_not_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    reference = [
        next(stream)
        for stream in [stream_of(DATA, on_error="skip", max_bad_rows=1000, window=8)]
        for _ in range(60)
    ]
    stream = _stream(tmp_path, 2, Slow())
    workers = start_workers(stream, 2)
    assert all(same(next(stream), row) for row in reference[:20])
    for worker in workers:
        worker.kill()
        worker.join()
    assert all(same(next(stream), row) for row in reference[20:])


def test_workers_end_with_their_parent_however_it_ended(tmp_path: Path):
    reading, writing = os.pipe()
    parent = os.fork()
    if parent == 0:
        workers = start_workers(_stream(tmp_path, 2, Slow()), 2)
        os.write(writing, " ".join(str(worker.pid) for worker in workers).encode())
        time.sleep(60)
        os._exit(0)
    pids = [int(pid) for pid in os.read(reading, 100).split()]
    assert len(pids) == 2
    assert not any(map(_gone, pids))
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    assert _wait(lambda: all(map(_gone, pids)))


def test_nobody_is_started_where_samples_are_not_kept(tmp_path: Path):
    assert start_workers(stream_of(DATA), 2) == []


def test_a_position_of_an_earlier_run_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    old = Position(tmp_path / "position", 2, 1, writes=True)
    old.beat(0)
    reader = Position(tmp_path / "position", 2, 1, writes=False)
    assert reader.attended()
    now = time.monotonic_ns()
    monkeypatch.setattr(time, "monotonic_ns", lambda: now + 3_000_000_000)
    assert not reader.attended()
    new = Position(tmp_path / "position", 2, 1, writes=True)
    assert not reader.attended()
    new.beat(0)
    assert reader.attended()  # it looks again at which file it is
    new.tell(1, 77)
    reader.tell(1, 99)  # only the writer's word counts
    assert (reader.told(0), reader.told(1), new.told(1)) == (0, 77, 77)


def test_a_position_that_cannot_be_kept_is_nobody(tmp_path: Path):
    (tmp_path / "position").write_bytes(bytes(3))
    assert not Position(tmp_path / "position", 2, 1, writes=False).attended()
    assert not Position(tmp_path / "none" / "position", 2, 1, writes=False).attended()


def test_numbers_stay_whole_across_processes(tmp_path: Path):
    position = Position(tmp_path / "position", 3, 0, writes=True)
    child = os.fork()
    if child == 0:
        for draws in range(20_000):
            position.tell(1, draws * 0x1_0000_0001)
        os._exit(0)
    seen = [position.told(1) for _ in range(20_000)]
    os.waitpid(child, 0)
    assert all(number % 0x1_0000_0001 == 0 for number in seen)
    assert position.told(1) == 19_999 * 0x1_0000_0001
    assert np.all(np.diff(seen) >= 0)
