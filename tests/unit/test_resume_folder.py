"""Which checkpoint a command goes on from, as far as it is seen before ranks start, and what is said of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from configs.errors import ConfigError
from configs.schema import CheckpointConfig, Config, RunConfig
from trainer.checkpoint.choice import resume_folder
from trainer.checkpoint.manifest import manifest_text
from trainer.checkpoint.store import name_latest, step_folder
from trainer.checkpoint.tensors import write_text
from trainer.data.notices import tell_once


def test_resume_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other"
    other.mkdir()
    step_folder(tmp_path / "checkpoints", 7).mkdir(parents=True)
    for folder in (step_folder(tmp_path / "checkpoints", 7), other):
        write_text(folder / "manifest.json", manifest_text(7, {}))

    def chosen(resume: str) -> Path | None:
        return resume_folder(Config(run=RunConfig(str(tmp_path)), checkpoint=CheckpointConfig(resume=resume)))

    assert chosen("auto") == step_folder(tmp_path / "checkpoints", 7)
    assert chosen("never") is None
    own = step_folder(tmp_path / "checkpoints", 7)
    tell_once.cache_clear()
    with pytest.raises(
        ConfigError, match=r"and did not begin there; go on from its newest, step-00000007, with"
    ):
        chosen(str(other))
    capsys.readouterr()
    assert chosen(str(own)) == own
    assert capsys.readouterr().err == ""
    gone = str(tmp_path / "gone")  # the other run's checkpoint.keep has deleted it, say
    with pytest.raises(ConfigError, match="gone: no such folder"):
        chosen(gone)  # no sign that it has ever been there
    (own / "training_state").mkdir()
    write_text(own / "training_state/state.json", json.dumps({"began": str(other)}))
    assert chosen(str(other)) == own  # begun from another run's folder, it goes on from its own
    assert "other is where this run began: it goes on from its own step-00000007" in capsys.readouterr().err
    write_text(own / "training_state/state.json", json.dumps({"began": gone}))
    assert chosen(gone) == own
    assert "gone is gone, and this run has begun there: it goes on from its own" in capsys.readouterr().err
    for mistyped in ("step-00000007", str(tmp_path / "step-00000007"), "nevre", str(own.with_name("step-9"))):
        with pytest.raises(ConfigError, match=f"{mistyped}: no such folder"):
            chosen(mistyped)
    own.rename(tmp_path / "away")
    assert chosen(str(other)) == other
    with pytest.raises(ConfigError, match="gone: no such folder; name a checkpoint, auto or never"):
        chosen(gone)


def damaged_run(
    tmp_path: Path, damaged: list[int], capsys: pytest.CaptureFixture[str], damage: str = ""
) -> tuple[Path | None, str]:
    """What is resumed of three checkpoints, some of which lack a file, and what is said."""
    tell_once.cache_clear()
    for step in (1, 2, 3):
        folder = step_folder(tmp_path / "checkpoints", step)
        folder.mkdir(parents=True)
        records = {"weights": write_text(folder / "weights", "x")}
        write_text(folder / "manifest.json", manifest_text(step, records))
        if step in damaged:
            (folder / "weights").write_text(damage)
    name_latest(tmp_path / "checkpoints", "step-00000003")
    found = resume_folder(Config(run=RunConfig(str(tmp_path))))
    return found, capsys.readouterr().err


def test_an_older_checkpoint_is_taken_loudly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found, said = damaged_run(tmp_path, [3, 2], capsys)
    assert found == step_folder(tmp_path / "checkpoints", 1)
    newest, older = said.splitlines()
    assert f"{step_folder(tmp_path / 'checkpoints', 3)}/weights: 0 bytes, 1 were written" in newest
    assert "Going on from step-00000002" in newest
    assert "checkpoint step-00000002 is damaged" in older


def test_a_run_whose_checkpoints_are_all_damaged_does_not_start_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError, match=r"step-00000001/weights: 0 bytes.*checkpoint\.resume=never"):
        damaged_run(tmp_path, [1, 2, 3], capsys)


def test_a_checkpoint_that_was_named_is_not_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged_run(tmp_path, [3], capsys)
    named = str(step_folder(tmp_path / "checkpoints", 3))
    with pytest.raises(ConfigError, match="0 bytes, 1 were written"):
        resume_folder(Config(run=RunConfig(str(tmp_path)), checkpoint=CheckpointConfig(resume=named)))


def test_small_files_are_read_before_ranks_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They are used there."""
    found, said = damaged_run(tmp_path, [3], capsys, damage="y")
    assert found == step_folder(tmp_path / "checkpoints", 2)
    assert "weights: holds other bytes than were written" in said
