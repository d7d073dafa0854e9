"""What the record of a run keeps, whatever fails."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest

from configs.schema import WandbConfig
from trainer.bar import progress_bar
from trainer.metrics import StepReport
from trainer.tracker import Tracker, forget_wandb_id, last_wandb_id


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


class Link:
    """Takes all and sends nothing."""

    made: ClassVar[list[Link]] = []

    def __init__(self, folder: Path, config: WandbConfig, settings: Any, id: str | None) -> None:
        self.id = id or f"new{len(self.made)}"
        self.logged: list[tuple[int, dict[str, Any]]] = []
        self.made.append(self)

    def log(self, values: dict[str, Any], step: int) -> None:
        self.logged.append((step, values))

    def close(self, patience_s: float, beat: Any) -> bool:
        return patience_s > 0


@pytest.fixture
def links(monkeypatch: pytest.MonkeyPatch) -> list[Link]:
    monkeypatch.setattr("trainer.tracker.WandbLink", Link)
    Link.made.clear()
    return Link.made


def test_the_newest_wandb_run_of_a_folder_is_known(tmp_path: Path, links: list[Link]) -> None:
    """A run that went back and was killed before it saved goes on with the wandb run that it began then."""
    assert last_wandb_id(tmp_path) is None
    for number in ("new0", "new1"):
        begun = tracker(tmp_path, mode="offline")
        assert (begun.wandb_id, last_wandb_id(tmp_path)) == (number, number)
        begun.close()
    assert tracker(tmp_path, mode="offline", wandb_id="abc").wandb_id == "abc"
    assert last_wandb_id(tmp_path) == "abc"
    assert (
        tracker(tmp_path, mode="disabled", wandb_id="abc").wandb_id == "abc"
    )  # a later start goes on with it
    forget_wandb_id(tmp_path)
    forget_wandb_id(tmp_path)  # where there is none
    assert last_wandb_id(tmp_path) is None


def test_what_wandb_is_told_of_a_step(tmp_path: Path, links: list[Link]) -> None:
    told = tracker(tmp_path, mode="offline")
    told.record(report(1))
    ((step, values),) = links[0].logged
    assert (step, values["loss"], values["loss/agent"], values["grad_norm"]) == (1, 1.0, 1.0, 1.0)
    assert not {"step", "loss_by_source", "data_hash"} & values.keys()


def test_a_run_ends_though_wandb_does_not(
    tmp_path: Path, links: list[Link], capsys: pytest.CaptureFixture[str]
) -> None:
    settings = WandbConfig(mode="online", finish_seconds=0)
    Tracker(tmp_path, settings, {}, done=0, steps=9, wandb_id=None).close()
    assert "wandb has not taken all, for which it had 0 s" in capsys.readouterr().err


def test_a_log_file_has_whole_lines_alone(capsys: pytest.CaptureFixture[str]) -> None:
    bar = progress_bar(0, 2)
    bar.update()
    bar.write("said", file=sys.stderr)
    bar.update()
    bar.close()
    bar.close()
    *lines, last = capsys.readouterr().err.split("\n")
    assert (lines[-1], last) == ("step 2/2, , 00:00 left", "")
    assert all(lines)
