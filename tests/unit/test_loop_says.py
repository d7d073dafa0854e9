"""What the loop says of bad rows: few lines on a long run, and the total where it ends. The steps are stood in for."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from streams import Row, stream_of

from configs.errors import REQUEUE
from configs.schema import BatchConfig, CheckpointConfig, Config
from trainer import loop
from trainer.data.bad_rows import Quarantine
from trainer.guard import Guard
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
        parts=SimpleNamespace(config=config, steps=STEPS),
        stream=stream_of(DATA, on_error="skip"),
        done=0,
        guard=Guard(),
        tracker=SimpleNamespace(record=lambda *_: None, say=said.append),
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
