"""R8: stopped anywhere and gone on with under another layout, the global sequence of samples is the one of no stop."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from streams import Row, same, stream_of

from trainer.data.ahead import Ahead
from trainer.data.micro_batch import GlobalBatch, global_batches
from trainer.data.position import Position
from trainer.data.rows import IGNORED
from trainer.data.stream import RowStream

STOPS = int(os.environ.get("RESUME_STOPS", "500"))
ROWS, STEPS = 8, 40
"""Rows in a batch, batches of the run."""
RANDOM = np.random.default_rng(11)


def _rows(count: int, mean: int) -> list[Row]:
    """Log-normal lengths, a few of them too long for a row, some without targets, a few bad."""
    lengths = np.clip(RANDOM.lognormal(np.log(mean), 0.8, count), 1, 90).astype(int)
    rows: list[Row] = [(int(length), bool(RANDOM.random() < 0.9)) for length in lengths]
    for i in RANDOM.choice(count, 3, replace=False):
        rows[i] = f"no conversation: row {i} is bad"
    return rows


# The agent source is passed over several times in the run, the general ones about twice and not once.
DATA: dict[str, list[Row]] = {"agent": _rows(60, 14), "general": _rows(150, 9), "more": _rows(700, 12)}
SETTINGS: dict[str, Any] = {"length": 64, "window": 24, "eta": 0.4, "on_error": "skip", "max_bad_rows": 9}
VARIANTS = [
    {"unit": unit, "too_long": long} for unit in ("samples", "targets") for long in ("truncate", "window")
]


def _stream(variant: dict[str, str], **more: Any) -> RowStream:
    return stream_of(DATA, **SETTINGS, **variant, **more)


def _sequence(batch: GlobalBatch, data: int, micro_rows: int) -> list[tuple[list[int], list[int]]]:
    """Tokens and next labels of the batch's rows in order, put together again from what each data rank gets."""
    rows: dict[int, tuple[list[int], list[int]]] = {}
    for rank in range(data):
        for turn, micro in enumerate(batch.micro_batches(rank, data, micro_rows)):
            for i, (tokens, labels) in enumerate(zip(micro.tokens, micro.labels, strict=True)):
                rows[(turn * data + rank) * micro_rows + i] = tokens.tolist(), labels.tolist()
    return [rows[i] for i in range(len(batch.rows))]


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: f"{v['unit']}-{v['too_long']}")
def test_any_stop_any_layout_the_same_sequence(variant: dict[str, str], tmp_path: Path):
    reference = _stream(variant)
    cursors = [json.dumps(reference.cursor())]
    batches: list[GlobalBatch] = []
    hashes: list[str] = []
    for batch in global_batches(reference, ROWS):
        batches.append(batch)
        cursors.append(json.dumps(reference.cursor()))
        hashes.append(reference.state().hash)
        if len(batches) == STEPS:
            break
    assert len(set(hashes)) == STEPS
    assert max(map(len, cursors)) < 4096
    expected = [_sequence(batch, 1, 1) for batch in batches]
    epochs = [report.epochs for report in reference.report()]
    assert epochs[0] > 3
    assert epochs[2] < 1
    random = np.random.default_rng(5)
    for trial in range(STOPS // len(VARIANTS)):
        stop = int(random.integers(STEPS))
        data, micro_rows = [(1, 1), (2, 1), (4, 2), (8, 1), (1, 4)][trial % 5]
        workers = trial % 3
        place = tmp_path / str(
            trial // 8
        )  # the stores of eight trials are one: half-filled, by other streams
        position = Position(place / "position", len(DATA), workers, writes=True) if workers else None
        stream = _stream(variant, stores=place, position=position)
        stream.restore(json.loads(cursors[stop]))
        ahead = [Ahead(stream.samples, stream.shares, worker, workers) for worker in range(workers)]
        for step in range(stop, min(stop + 3, STEPS)):
            for worker in random.integers(0, max(workers, 1), 40) if workers else ():
                ahead[worker].step()
            batch = next(global_batches(stream, ROWS))
            assert _sequence(batch, data, micro_rows) == expected[step], (
                f"trial {trial}: step {step} after {stop}"
            )
            assert stream.state().hash == hashes[step]
        assert json.dumps(stream.cursor()) == cursors[min(stop + 3, STEPS)]


def test_each_row_comes_once_in_each_pass_and_only_the_bad_ones_never():
    stream = _stream(VARIANTS[0])
    placed: Counter[tuple[str, str]] = Counter()
    while min(report.drawn / len(DATA[report.name]) for report in stream.report()) < 1:
        placed.update(next(stream).samples)
    settled = [stream.settled(i) // len(rows) for i, rows in enumerate(DATA.values())]
    for passes, (name, rows) in zip(settled, DATA.items(), strict=True):
        for i, row in enumerate(rows):
            usable = not isinstance(row, str) and row[1] and row[0] > 1
            count = placed[name, str(i)]
            assert passes <= count <= passes + 2 if usable else count == 0


def test_rows_with_targets_alone_are_compared():
    """The comparison above is of labels too, and there are some in every row."""
    stream = _stream(VARIANTS[0])
    for _ in range(20):
        assert (next(stream).labels != IGNORED).any()


def test_same_tells_rows_apart():
    a, b = _stream(VARIANTS[0]), _stream(VARIANTS[0], seed=2)
    first = next(a)
    assert same(first, first)
    assert not same(first, next(b))
