"""What the record of a run keeps, whatever fails."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import wandb

from configs.schema import WandbConfig
from trainer.metrics import StepReport, Tracker, forget_wandb_id, last_wandb_id


def report(step: int) -> StepReport:
    losses = 1.0, {"agent": 1.0}, {"text": 1.0}
    return StepReport(step, *losses, 1e-3, 1.0, 9, 10, 0.9, 4, 0.5, 1.0, 10.0, 0.0, "hash", 0, 9, None)


def tracker(folder: Path, done: int = 0, wandb_id: str | None = None, mode: Any = "disabled") -> Tracker:
    return Tracker(folder, WandbConfig(mode=mode), {}, done=done, steps=9, wandb_id=wandb_id)


def logged(folder: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_resumed_run_cuts_the_log_to_its_step(tmp_path: Path) -> None:
    first = tracker(tmp_path)
    for step in (1, 2, 3):
        first.record(report(step))
    first.close()
    again = tracker(tmp_path, done=2)
    assert (again.logged, logged(tmp_path)) == (2, [1, 2])
    again.record(report(3))
    again.close()
    assert logged(tmp_path) == [1, 2, 3]


@pytest.mark.parametrize("spoilt", [b'{"step": 3', b"\0\0\0\n", b"\xff\n"])
def test_what_a_power_cut_has_spoilt_is_cut(spoilt: bytes, tmp_path: Path) -> None:
    first = tracker(tmp_path)
    first.record(report(1))
    first.close()
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(spoilt)
    again = tracker(tmp_path, done=3)
    again.close()
    assert (again.logged, logged(tmp_path)) == (1, [1])


def test_a_full_disk_is_told_with_the_file(tmp_path: Path) -> None:
    """By the close too, which comes after it and tries once more."""
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    full = tracker(tmp_path)
    with pytest.raises(OSError, match=r"No space left on device: '.*metrics\.jsonl'"):
        full.record(report(1))
    with pytest.raises(OSError, match=r"No space left on device: '.*metrics\.jsonl'"):
        full.close()


def test_the_wandb_run_is_not_lost_where_wandb_fails_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(**_: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(wandb, "init", fails)
    without = tracker(tmp_path, wandb_id="abc", mode="offline")
    without.close()
    assert without.wandb_id == "abc"  # which the next checkpoint holds
    assert "training goes on without it" in capsys.readouterr().err


def test_the_newest_wandb_run_of_a_folder_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that went back and was killed before it saved goes on with the wandb run that it began then."""
    assert last_wandb_id(tmp_path) is None
    (tmp_path / "wandb").mkdir()
    for number in ("first", "second"):
        begun = SimpleNamespace(id=number, finish=lambda: None)
        monkeypatch.setattr(wandb, "init", lambda begun=begun, **_: begun)
        tracker(tmp_path, mode="offline").close()
        assert last_wandb_id(tmp_path) == number
    forget_wandb_id(tmp_path)
    forget_wandb_id(tmp_path)  # where there is none
    assert last_wandb_id(tmp_path) is None
