from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.errors import ConfigError
from configs.schema import CheckpointConfig, Config, RunConfig
from trainer.checkpoint.store import commit, find_latest, name_latest, prune, resume_folder, step_folder
from trainer.parallel.grid import Grid


def writer(text: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "weights").write_text(text)
        (folder / "training_state" / "state").write_text(text)

    return write


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_commit_makes_a_folder_visible_and_names_it(single_rank: Grid, tmp_path: Path) -> None:
    checkpoints = tmp_path / "checkpoints"
    for step in (5, 10):
        assert commit(checkpoints, step, single_rank, writer(str(step))) == step_folder(checkpoints, step)
        assert find_latest(checkpoints) == step_folder(checkpoints, step)
    assert names(checkpoints) == ["latest", "step-00000005", "step-00000010"]
    assert (checkpoints / "latest").read_text() == "step-00000010\n"
    assert (checkpoints / "step-00000005/training_state/state").read_text() == "5"


def test_nothing_is_visible_before_all_is_written(single_rank: Grid, tmp_path: Path) -> None:
    def write(folder: Path) -> None:
        writer("new")(folder)
        assert find_latest(tmp_path) == step_folder(tmp_path, 1)
        assert not step_folder(tmp_path, 2).exists()
        assert not folder.name.startswith("step-")

    commit(tmp_path, 1, single_rank, writer("old"))
    commit(tmp_path, 2, single_rank, write)


def test_a_failure_leaves_the_last_checkpoint_in_force(single_rank: Grid, tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        writer("half")(folder)
        raise OSError(28, "No space left on device")

    commit(tmp_path, 1, single_rank, writer("old"))
    with pytest.raises(OSError, match="No space left"):
        commit(tmp_path, 2, single_rank, fail)
    assert find_latest(tmp_path) == step_folder(tmp_path, 1)
    assert not step_folder(tmp_path, 2).exists()
    commit(tmp_path, 2, single_rank, writer("whole"))  # what the failure left is no hindrance
    assert (step_folder(tmp_path, 2) / "weights").read_text() == "whole"


def test_the_same_step_again_replaces_it(single_rank: Grid, tmp_path: Path) -> None:
    def other(folder: Path) -> None:
        (folder / "other").write_text("new")

    commit(tmp_path, 3, single_rank, writer("old"))
    commit(tmp_path, 3, single_rank, other)
    assert names(step_folder(tmp_path, 3)) == ["other", "training_state"]


def test_folders_are_renamed_only_after_their_bytes_are_on_disk(
    single_rank: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a power cut could leave a checkpoint with its name and without its content."""
    events: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def noted_fsync(descriptor: int) -> None:
        events.append("flush " + Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        fsync(descriptor)

    def noted_rename(source: Path, target: Path) -> Path:
        events.append("rename to " + Path(target).name)
        return rename(source, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "rename", noted_rename)
    commit(tmp_path, 1, single_rank, writer("x"))
    folder, pointer = events.index("rename to step-00000001"), events.index("rename to latest")
    assert {"flush weights", "flush state", "flush training_state"} <= set(events[:folder])
    assert folder < pointer
    assert events[-1] == f"flush {tmp_path.name}"


def test_other_ranks_leave_the_rename_to_the_first(single_rank: Grid, tmp_path: Path) -> None:
    (tmp_path / ".step-00000004.partial" / "training_state").mkdir(parents=True)
    commit(tmp_path, 4, replace(single_rank, rank=3), writer("part"))
    assert names(tmp_path) == [".step-00000004.partial"]


def folders(checkpoints: Path, steps: list[int]) -> None:
    for step in steps:
        step_folder(checkpoints, step).mkdir(parents=True)


@pytest.mark.parametrize("pointer", [None, "", "\n"])
def test_without_latest_the_newest_folder_is_found(pointer: str | None, tmp_path: Path) -> None:
    folders(tmp_path, [90, 100, 20])
    (tmp_path / "step-00000200").write_text("a file is no checkpoint")
    (tmp_path / ".step-00000300.partial").mkdir()
    if pointer is not None:
        (tmp_path / "latest").write_text(pointer)
    assert find_latest(tmp_path) == step_folder(tmp_path, 100)


def test_latest_is_followed_even_to_an_older_folder(tmp_path: Path) -> None:
    folders(tmp_path, [10, 20])
    name_latest(tmp_path, "step-00000010")
    assert find_latest(tmp_path) == step_folder(tmp_path, 10)
    assert names(tmp_path) == ["latest", "step-00000010", "step-00000020"]


def test_nothing_there(tmp_path: Path) -> None:
    assert find_latest(tmp_path) is None
    assert find_latest(tmp_path / "checkpoints") is None


def test_latest_naming_what_is_gone_is_an_error(tmp_path: Path) -> None:
    folders(tmp_path, [10])
    name_latest(tmp_path, "step-00000030")
    with pytest.raises(
        ConfigError, match=r"step-00000030, which is not there.*checkpoint\.resume=never"
    ) as caught:
        find_latest(tmp_path)
    assert "\n" not in str(caught.value)


def test_resume_folder(tmp_path: Path) -> None:
    folders(tmp_path / "checkpoints", [7])

    def chosen(resume: str) -> Path | None:
        return resume_folder(Config(run=RunConfig(str(tmp_path)), checkpoint=CheckpointConfig(resume=resume)))

    assert chosen("auto") == step_folder(tmp_path / "checkpoints", 7)
    assert chosen("never") is None
    own, other = step_folder(tmp_path / "checkpoints", 7), tmp_path / "other"
    other.mkdir()
    assert chosen(str(other)) == own  # begun from another run's folder, it goes on from its own
    assert chosen(str(own)) == own
    own.rename(tmp_path / "away")
    assert chosen(str(other)) == other
    with pytest.raises(ConfigError, match="elsewhere: no such folder"):
        chosen(str(tmp_path / "elsewhere"))


@given(st.sets(st.integers(1, 10**7), max_size=8), st.none() | st.integers(1, 10))
def test_prune_keeps_the_newest(
    tmp_path_factory: pytest.TempPathFactory, steps: set[int], keep: int | None
) -> None:
    checkpoints = tmp_path_factory.mktemp("checkpoints")
    folders(checkpoints, list(steps))
    prune(checkpoints, keep)
    kept = sorted(steps)[-keep:] if keep else sorted(steps)
    assert names(checkpoints) == [step_folder(checkpoints, step).name for step in kept]


def test_prune_never_takes_the_one_in_force(tmp_path: Path) -> None:
    folders(tmp_path, [1, 2, 3])
    name_latest(tmp_path, "step-00000001")  # set back by hand
    prune(tmp_path, 1)
    assert names(tmp_path) == ["latest", "step-00000001"]
