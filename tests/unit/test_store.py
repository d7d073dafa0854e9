from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import xxhash

from configs.errors import ConfigError
from configs.schema import Config, RunConfig
from trainer.checkpoint import store, tensors
from trainer.checkpoint.choice import resume_folder
from trainer.checkpoint.manifest import FileRecord, Records, check_files, read_manifest
from trainer.checkpoint.store import (
    CheckpointError,
    commit,
    committed,
    name_latest,
    step_folder,
)
from trainer.checkpoint.tensors import write_text
from trainer.parallel.grid import Grid

X = xxhash.xxh3_128(b"x").hexdigest()


def writer(text: str) -> Callable[[Path], Records]:
    def write(folder: Path) -> Records:
        return {name: write_text(folder / name, text) for name in ("weights", "training_state/state")}

    return write


def newest(checkpoints: Path) -> Path | None:
    return next(iter(committed(checkpoints)), None)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_commit_makes_a_folder_visible_and_names_it(single_rank: Grid, tmp_path: Path) -> None:
    checkpoints = tmp_path / "checkpoints"
    for step in (5, 10):
        assert commit(checkpoints, step, single_rank, writer(str(step))) == step_folder(checkpoints, step)
        assert newest(checkpoints) == step_folder(checkpoints, step)
    assert names(checkpoints) == ["latest", "step-00000005", "step-00000010"]
    assert (checkpoints / "latest").read_text() == "step-00000010\n"
    assert (checkpoints / "step-00000005/training_state/state").read_text() == "5"


def test_nothing_is_visible_before_all_is_written(single_rank: Grid, tmp_path: Path) -> None:
    def write(folder: Path) -> Records:
        records = writer("new")(folder)
        assert newest(tmp_path) == step_folder(tmp_path, 1)
        assert not step_folder(tmp_path, 2).exists()
        assert not folder.name.startswith("step-")
        return records

    commit(tmp_path, 1, single_rank, writer("old"))
    commit(tmp_path, 2, single_rank, write)


def test_a_failure_leaves_the_last_checkpoint_in_force(single_rank: Grid, tmp_path: Path) -> None:
    def fail(folder: Path) -> Records:
        writer("half")(folder)
        raise OSError(28, "No space left on device")

    commit(tmp_path, 1, single_rank, writer("old"))
    with pytest.raises(OSError, match="No space left"):
        commit(tmp_path, 2, single_rank, fail)
    assert newest(tmp_path) == step_folder(tmp_path, 1)
    assert not step_folder(tmp_path, 2).exists()
    commit(tmp_path, 2, single_rank, writer("whole"))  # what the failure left is no hindrance
    assert (step_folder(tmp_path, 2) / "weights").read_text() == "whole"


@pytest.mark.parametrize("elsewhere", [[False], [True, False], [True, True]])
def test_the_rank_is_named_whose_disk_failed(
    elsewhere: list[bool], single_rank: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not one that wrote no further because of it."""

    def answered(told: dict[str, object], grid: Grid) -> list[dict[str, object]]:
        if not told.get("files"):
            return [told]
        return [{"error": f"error of {rank}", "elsewhere": value} for rank, value in enumerate(elsewhere)]

    named = elsewhere.index(False) if False in elsewhere else 0
    said = rf"rank {named}( and 1 more)? could .*: error of {named}; "
    for before in ("there is none before it", "earlier checkpoints stay in force"):
        with monkeypatch.context() as patch:
            patch.setattr("trainer.parallel.exchange.exchange", answered)
            with pytest.raises(CheckpointError, match=said + before):
                commit(tmp_path, 2, single_rank, writer("new"))
        assert names(tmp_path) == ([] if before.startswith("there") else ["latest", "step-00000001"])
        commit(tmp_path, 1, single_rank, writer("old"))


@pytest.mark.parametrize("pointer", [None, b"", b"\xff", b"step-00000009\n"])
def test_what_latest_names_was_taken_away_meanwhile(
    pointer: bytes | None, single_rank: Grid, tmp_path: Path
) -> None:
    """By somebody who made room while the run went on: the next checkpoint is saved all the same."""
    for step in (1, 2):
        commit(tmp_path, step, single_rank, writer("old"))
    if pointer is None:
        shutil.rmtree(step_folder(tmp_path, 2))
    else:
        (tmp_path / "latest").write_bytes(pointer)
    commit(tmp_path, 3, single_rank, writer("new"))
    assert committed(tmp_path)[0] == step_folder(tmp_path, 3)
    assert committed(tmp_path)[-1] == step_folder(tmp_path, 1)
    assert not list(tmp_path.glob("*-left"))


def test_the_same_step_again_replaces_it(single_rank: Grid, tmp_path: Path) -> None:
    def other(folder: Path) -> Records:
        return {"other": write_text(folder / "other", "new")}

    commit(tmp_path, 3, single_rank, writer("old"))
    commit(tmp_path, 3, single_rank, other)
    assert names(step_folder(tmp_path, 3)) == ["manifest.json", "other", "training_state"]


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
    flushed = ("weights", "state", "manifest.json", "training_state", ".step-00000001.partial")
    assert {f"flush {name}" for name in flushed} <= set(events[:folder])
    assert f"flush {tmp_path.name}" in events[folder:pointer]
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
    assert newest(tmp_path) == step_folder(tmp_path, 100)


def test_latest_is_followed_even_to_an_older_folder(tmp_path: Path) -> None:
    folders(tmp_path, [10, 20])
    name_latest(tmp_path, "step-00000010")
    assert newest(tmp_path) == step_folder(tmp_path, 10)
    assert names(tmp_path) == ["latest", "step-00000010", "step-00000020"]


def test_nothing_there(tmp_path: Path) -> None:
    assert newest(tmp_path) is None
    assert newest(tmp_path / "checkpoints") is None


def test_latest_naming_what_is_gone_is_an_error(tmp_path: Path) -> None:
    folders(tmp_path, [10])
    name_latest(tmp_path, "step-00000030")
    with pytest.raises(
        ConfigError, match=r"step-00000030', which is not there.*checkpoint\.resume=never"
    ) as caught:
        newest(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_disk_that_fails_after_the_end_does_not_take_it_back(
    single_rank: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(folder: Path) -> None:
        if (tmp_path / "latest").exists():
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(store, "flush", refuse)
    said: list[str] = []
    assert commit(tmp_path, 1, single_rank, writer("x"), said.append) == newest(tmp_path)
    (told,) = said
    assert told.startswith("checkpoint step-00000001 is in force, but a power cut may still take it: ")


@pytest.mark.parametrize("step", [2, 3])
def test_the_course_that_was_left_is_put_aside(step: int, single_rank: Grid, tmp_path: Path) -> None:
    """Going back to 1, the run meets folders of its old course, which no fallback may take for its own."""
    for old in (1, 2, 3):
        commit(tmp_path, old, single_rank, writer("old"))
    name_latest(tmp_path, "step-00000001")
    commit(tmp_path, step, single_rank, writer("new"))
    assert newest(tmp_path) == step_folder(tmp_path, step)
    assert (step_folder(tmp_path, step) / "weights").read_text() == "new"
    assert (tmp_path / "step-00000003-left/weights").read_text() == "old"
    assert (tmp_path / "step-00000002-left/weights").read_text() == "old"
    assert committed(tmp_path)[1:] == [step_folder(tmp_path, 1)]


@pytest.mark.parametrize("call", ["write", "rename", "flush"])
def test_a_disk_that_fails_at_the_last_moment(
    call: str, single_rank: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Full when `latest` is to be written, or failing when it is put in place: nothing is seen of the new one."""
    commit(tmp_path, 1, single_rank, writer("old"))
    pieces, rename, flushed = tensors.write_pieces, Path.rename, store.flush

    def failing_pieces(file: Path, held: Iterator[memoryview], total: int) -> FileRecord:
        if file.name == ".latest.partial":
            raise OSError(28, f"{file}: 0 of {total} bytes were written, then: No space left on device")
        return pieces(file, held, total)

    def failing_rename(path: Path, target: Path) -> Path:
        if path.name == ".latest.partial":
            raise OSError(5, "Input/output error", str(path))
        return rename(path, target)

    def failing_flush(path: Path) -> None:
        if step_folder(tmp_path, 2).exists():
            raise OSError(5, "Input/output error", str(path))
        flushed(path)

    with monkeypatch.context() as patch:
        if call == "write":
            patch.setattr(tensors, "write_pieces", failing_pieces)
        elif call == "rename":
            patch.setattr(Path, "rename", failing_rename)
        else:
            patch.setattr(store, "flush", failing_flush)
        with pytest.raises(CheckpointError, match=str(tmp_path)):
            commit(tmp_path, 2, single_rank, writer("new"))
    assert committed(tmp_path) == [step_folder(tmp_path, 1)]
    assert not list(tmp_path.glob("*step-00000002*"))
    commit(tmp_path, 2, single_rank, writer("new"))
    assert names(tmp_path) == ["latest", "step-00000001", "step-00000002"]


@pytest.mark.parametrize("moment", range(16))
def test_killed_at_any_moment_a_sound_one_is_in_force(
    moment: int, single_rank: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a step that is there already is written again, after the run went back to the one before it."""

    class Killed(BaseException):
        pass

    for step in (1, 2):
        commit(tmp_path / "checkpoints", step, single_rank, writer("old"))
    calls = 0

    def killing(function: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **options: object) -> object:
            nonlocal calls
            calls += 1
            if calls == moment + 1:
                raise Killed
            return function(*args, **options)

        return call

    with monkeypatch.context() as patch:
        for owner, name in ((Path, "rename"), (Path, "unlink"), (os, "fsync"), (shutil, "rmtree")):
            patch.setattr(owner, name, killing(getattr(owner, name)))
        with contextlib.suppress(Killed):
            commit(tmp_path / "checkpoints", 2, single_rank, writer("new"))
    assert calls > moment, "a moment that never comes"
    found = resume_folder(Config(run=RunConfig(str(tmp_path))))
    assert found is not None
    records = read_manifest(found)
    check_files(found, records, records)
    commit(tmp_path / "checkpoints", 3, single_rank, writer("later"))
    assert not list((tmp_path / "checkpoints").glob(".step*"))


@pytest.mark.parametrize("content", [b"\0\0\0\0", b"", b"\xff\0"])
def test_a_spoilt_latest(content: bytes, tmp_path: Path) -> None:
    folders(tmp_path, [1, 2])
    (tmp_path / "latest").write_bytes(content)
    if b"\xff" in content:
        with pytest.raises(ConfigError, match="which is not there"):
            committed(tmp_path)
    else:
        assert newest(tmp_path) == step_folder(tmp_path, 2)


def test_what_all_ranks_wrote_is_in_the_manifest(single_rank: Grid, tmp_path: Path) -> None:
    folder = commit(tmp_path, 1, single_rank, writer("x"))
    records = read_manifest(folder)
    assert records == dict.fromkeys(("weights", "training_state/state"), FileRecord(1, X))
    check_files(folder, records, records)
