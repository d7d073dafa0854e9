"""What a run's folder holds when a run begins in it, or goes back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from shutil import rmtree

import pytest
from test_store import folders, names, newest, writer

from configs.errors import ConfigError
from configs.schema import CheckpointConfig, Config, RunConfig
from trainer.checkpoint.choice import resume_folder
from trainer.checkpoint.course import Taken, take_up
from trainer.checkpoint.store import commit, name_latest, prune, step_folder
from trainer.data.notices import tell_once
from trainer.parallel.grid import Grid


def taken(output: Path, resume: str, resumed: Path | None) -> Taken:
    return take_up(Config(run=RunConfig(str(output)), checkpoint=CheckpointConfig(resume=resume)), resumed)


def test_a_run_that_begins_anew_puts_the_one_before_aside(tmp_path: Path) -> None:
    for run in ("first", "second"):
        folders(tmp_path / "checkpoints", [1, 2])
        name_latest(tmp_path / "checkpoints", "step-00000002")
        (tmp_path / "metrics.jsonl").write_text(run)
        assert "step-00000002-left" in taken(tmp_path, "never", None).told
        assert newest(tmp_path / "checkpoints") is None
    assert taken(tmp_path, "never", None) == (False, False, "")
    assert names(tmp_path) == ["checkpoints", "metrics-left-2.jsonl", "metrics-left.jsonl"]
    assert (tmp_path / "metrics-left.jsonl").read_text() == "first"
    left = [f"step-0000000{step}-left{again}" for step in (1, 2) for again in ("", "-2")]
    assert names(tmp_path / "checkpoints") == sorted(left)


def test_a_damaged_one_that_was_passed_over_takes_no_place(
    single_rank: Grid, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its step need not come again; `keep` would count it, and delete the sound one before it."""
    config, checkpoints = Config(run=RunConfig(str(tmp_path))), tmp_path / "checkpoints"
    for step in (100, 150):
        commit(checkpoints, step, single_rank, writer("sound"))
    (step_folder(checkpoints, 150) / "weights").write_text("spoilt")
    found = resume_folder(config)
    assert found == step_folder(checkpoints, 100)
    assert found is not None
    assert take_up(config, found) == (True, True, "")
    capsys.readouterr()
    tell_once.cache_clear()
    assert resume_folder(config) == found, "a start that is killed before it saves changes nothing"
    assert "step-00000150 passed over" in capsys.readouterr().err
    commit(checkpoints, 200, single_rank, writer("new"))
    prune(checkpoints, 2)
    assert names(checkpoints) == ["latest", "step-00000100", "step-00000150-left", "step-00000200"]


@pytest.mark.parametrize(
    ("resume", "step", "same", "said"),
    [
        ("auto", 2, True, ""),
        ("own", 2, True, ""),
        ("own", 1, False, "taken up at step-00000001 instead of step-00000002: what is newer is put aside"),
        ("other", 1, False, "the run begins with "),
        ("auto", 0, False, "the run begins afresh, with no checkpoint in "),
        ("never", 0, False, "checkpoint.resume=never: of the run before "),
    ],
)
def test_whose_course_goes_on(
    resume: str, step: int, same: bool, said: str, single_rank: Grid, tmp_path: Path
) -> None:
    """One gone back on is another, and so is one that begins with another run's: each has a log of its own."""
    for run in ("own", "other"):
        for number in (1, 2) if step else ():
            commit(tmp_path / run / "checkpoints", number, single_rank, writer(run))
    own, log = tmp_path / "own/checkpoints", tmp_path / "own/metrics.jsonl"
    own.mkdir(parents=True, exist_ok=True)
    log.write_text("what was logged")
    folder = step_folder(tmp_path / ("other" if resume == "other" else "own") / "checkpoints", step)
    named = resume if resume in ("auto", "never") else str(folder)
    found = taken(tmp_path / "own", named, folder if step else None)
    assert found[:2] == (step > 0 and resume != "other", same)
    assert found.told.startswith(said)
    assert ("metrics-left.jsonl" in found.told) is bool(said)
    kept = tmp_path / "own/metrics-left.jsonl"
    assert kept.is_file() is bool(said)
    assert not said or kept.read_text() == "what was logged"
    assert log.is_file() is found.own, "the tracker cuts it"
    in_force = {0: None, 1: 2 if resume == "other" else 1, 2: 2}[step]
    assert newest(own) == (in_force and step_folder(own, in_force))


def test_gone_back_where_a_folder_is_missing(single_rank: Grid, tmp_path: Path) -> None:
    """The user deleted the newest, which `latest` still names."""
    config, checkpoints = Config(run=RunConfig(str(tmp_path))), tmp_path / "checkpoints"
    for step in (1, 2, 3):
        commit(checkpoints, step, single_rank, writer("x"))
    rmtree(step_folder(checkpoints, 3))
    with pytest.raises(ConfigError, match=f"checkpoint.resume={step_folder(checkpoints, 2)} to go on"):
        resume_folder(config)
    named = replace(config, checkpoint=CheckpointConfig(resume=str(step_folder(checkpoints, 2))))
    assert not take_up(named, resume_folder(named)).same
    assert resume_folder(config) == step_folder(checkpoints, 2)


def test_checkpoints_that_are_links_are_the_runs_own(single_rank: Grid, tmp_path: Path) -> None:
    """Moved to another disk, say."""
    checkpoints = tmp_path / "run/checkpoints"
    for step in (1, 2):
        folder = commit(checkpoints, step, single_rank, writer("x"))
        (tmp_path / "archive").mkdir(exist_ok=True)
        folder.rename(tmp_path / "archive" / folder.name).resolve()
        folder.symlink_to(tmp_path / "archive" / folder.name)
    newest, older = step_folder(checkpoints, 2), step_folder(checkpoints, 1)
    assert taken(tmp_path / "run", "auto", newest) == (True, True, "")
    (tmp_path / "best").symlink_to(older)
    for resume in (str(older), str(tmp_path / "best")):
        config = Config(run=RunConfig(str(tmp_path / "run")), checkpoint=CheckpointConfig(resume=resume))
        if resume == str(older):
            assert resume_folder(config) == older
            assert take_up(config, older)[:2] == (True, False)
            assert resume_folder(replace(config, checkpoint=CheckpointConfig())) == older


def test_what_was_put_aside_is_not_gone_back_to_under_that_name(single_rank: Grid, tmp_path: Path) -> None:
    folder = commit(tmp_path / "checkpoints", 1, single_rank, writer("x"))
    left = folder.rename(folder.with_name(f"{folder.name}-left"))
    config = Config(run=RunConfig(str(tmp_path)), checkpoint=CheckpointConfig(resume=str(left)))
    with pytest.raises(ConfigError, match="give it a name like step-"):
        resume_folder(config)
    assert resume_folder(replace(config, run=RunConfig(str(tmp_path / "new")))) == left
