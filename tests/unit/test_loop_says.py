"""What the loop says of bad rows: few lines on a long run, and the total where it ends. The steps are stood in for."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from streams import Row, stream_of

from configs.errors import REQUEUE
from configs.schema import BatchConfig, CheckpointConfig, Config, GuardConfig
from tokenization.errors import DataError
from trainer import loop
from trainer.checkpoint.store import CheckpointError
from trainer.data.bad_rows import Quarantine
from trainer.guard import Guard, GuardError
from trainer.step import Taken, Wishes

STEPS = 40
DATA: dict[str, list[Row]] = {
    "agent": [(30, True), "no JSON"] * 60,
    "general": [(30, True)] * 120,
}


@pytest.mark.parametrize(
    ("stopped_at", "resume", "code", "last"),
    [
        (None, "auto", 0, "table"),
        (30, "auto", REQUEUE, "stopped by a signal after step 30: the same command goes on from there"),
        (
            30,
            "never",
            REQUEUE,
            "stopped by a signal after step 30: checkpoint.resume=auto goes on from there",
        ),
    ],
)
def test_few_lines_and_the_total_where_the_run_ends(
    stopped_at: int | None, resume: str, code: int, last: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    report: Any = None

    def step(parts: Any, batch: Any, number: int, *others: Any) -> Taken:
        return Taken(report, Guard(), "", Wishes(stop=number == stopped_at))

    monkeypatch.setattr(loop, "train_step", step)
    monkeypatch.setattr(loop, "save", lambda run, saver, step, *others, ends: said.append(f"saved {step}"))
    monkeypatch.setattr(loop, "saver_of", lambda run: SimpleNamespace(failed=False, news=lambda: []))
    monkeypatch.setattr(loop, "StopRequest", lambda: SimpleNamespace(wished=False))
    monkeypatch.setattr(loop, "table", lambda reports: "table")
    config = Config(batch=BatchConfig(rows=4), checkpoint=CheckpointConfig(every=None, resume=resume))
    run: Any = SimpleNamespace(
        parts=SimpleNamespace(config=config, steps=STEPS, grid=None),
        stream=stream_of(DATA, on_error="skip"),
        done=0,
        forecast=None,
        held_out=None,
        guard=Guard(),
        tracker=SimpleNamespace(record=lambda *_: None, say=said.append, attach=print),
        quarantine=Quarantine(tmp_path, 0),
    )
    assert loop.train(run) == code
    rows = len(run.quarantine.path.read_text().splitlines())
    told = [line for line in said if "left out" in line]
    assert rows > 30
    assert 3 <= len(told) <= 8  # at 1, 2, 4 … 64 at the most, and at the end
    assert told[-1].startswith(f"{rows} bad row(s) left out in all, each told in {run.quarantine.path}")
    assert said[said.index(told[-1]) + 1] == f"saved {stopped_at or STEPS}"
    assert said[-1] == last


@pytest.mark.parametrize("data_ends", [False, True])
def test_a_disk_that_is_full_too_does_not_hide_why_the_run_ends(
    data_ends: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    report: Any = None

    def refuse(*_: object, **others: object) -> None:
        raise CheckpointError("checkpoint of step 1 was given up")

    def full(*_: object, **others: object) -> str:
        raise OSError(errno.ENOSPC, "No space left on device", "quarantine.jsonl")

    taken = Taken(report, replace(Guard(), in_a_row=1), "loss nan", Wishes(stop=False))
    monkeypatch.setattr(loop, "train_step", lambda *_: taken)
    monkeypatch.setattr(loop, "save", refuse)
    monkeypatch.setattr(
        loop, "saver_of", lambda run: SimpleNamespace(failed=False, news=list, settle=lambda: None)
    )
    monkeypatch.setattr(loop, "StopRequest", lambda: SimpleNamespace(wished=False))
    config = Config(batch=BatchConfig(rows=4), guard=GuardConfig(patience=1))
    bad: list[Row] = ["no JSON"] * 60
    run: Any = SimpleNamespace(
        parts=SimpleNamespace(config=config, steps=STEPS, grid=None),
        stream=stream_of({"agent": bad, "general": bad} if data_ends else DATA, on_error="skip"),
        done=0,
        forecast=None,
        held_out=None,
        guard=Guard(),
        tracker=SimpleNamespace(record=lambda *_: None, say=said.append, attach=print),
        quarantine=SimpleNamespace(add=full if data_ends else lambda *_, ends: ""),
    )
    with pytest.raises(DataError if data_ends else GuardError):
        loop.train(run)
    (told,) = said
    assert ("No space left on device" if data_ends else "checkpoint of step 1 was given up") in told


def test_the_plan_is_compared_after_the_third_step_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    asked: list[int] = []

    def step(parts: Any, batch: Any, number: int, *others: Any) -> Taken:
        report: Any = SimpleNamespace(step=number)
        return Taken(report, Guard(), "", Wishes(stop=number == 9))

    def compare(forecast: Any, report: Any, grid: Any) -> str:
        asked.append(report.step)
        return "predicted and measured"

    monkeypatch.setattr(loop, "train_step", step)
    monkeypatch.setattr(loop, "compared", compare)
    monkeypatch.setattr(loop, "save", lambda *_, **others: None)
    monkeypatch.setattr(loop, "saver_of", lambda run: SimpleNamespace(failed=False, news=lambda: []))
    monkeypatch.setattr(loop, "StopRequest", lambda: SimpleNamespace(wished=False))
    rows: dict[str, list[Row]] = {"agent": [(30, True)] * 60, "general": [(30, True)] * 60}
    run: Any = SimpleNamespace(
        parts=SimpleNamespace(config=Config(batch=BatchConfig(rows=4)), steps=STEPS, grid=None),
        stream=stream_of(rows),
        done=2,  # taken up: libraries set themselves up again
        forecast=object(),
        held_out=None,
        guard=Guard(),
        tracker=SimpleNamespace(record=lambda *_: None, say=said.append, attach=print),
        quarantine=None,
    )
    assert loop.train(run) == REQUEUE
    assert asked == [5]
    assert said[0] == "predicted and measured"
