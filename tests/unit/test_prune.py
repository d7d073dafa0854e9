"""Old checkpoints are deleted, and nothing else; what cannot be is in nobody's way."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_store import folders, names, writer

from trainer.checkpoint.store import commit, name_latest, prune, step_folder
from trainer.checkpoint.tensors import write_text
from trainer.parallel.grid import Grid


@given(st.sets(st.integers(1, 10**7), max_size=8), st.none() | st.integers(1, 10))
def test_prune_keeps_the_newest(
    tmp_path_factory: pytest.TempPathFactory, steps: set[int], keep: int | None
) -> None:
    checkpoints = tmp_path_factory.mktemp("checkpoints")
    folders(checkpoints, list(steps))
    prune(checkpoints, keep)
    kept = sorted(steps)[-keep:] if keep else sorted(steps)
    assert names(checkpoints) == [step_folder(checkpoints, step).name for step in kept]


@given(st.lists(st.booleans(), min_size=1, max_size=8), st.integers(1, 3))
def test_prune_keeps_as_many_that_are_in_no_doubt(
    tmp_path_factory: pytest.TempPathFactory, doubtful: list[bool], keep: int
) -> None:
    """And the newest, whatever it is."""
    checkpoints = tmp_path_factory.mktemp("checkpoints")
    folders(checkpoints, list(range(len(doubtful))))
    prune(checkpoints, keep, lambda folder: doubtful[int(folder.name[-8:])])
    sound = [step for step, doubt in enumerate(doubtful) if not doubt][-keep:]
    assert names(checkpoints) == [
        step_folder(checkpoints, step).name for step in sorted({*sound, len(doubtful) - 1})
    ]


def test_prune_leaves_what_is_newer_than_the_one_in_force(tmp_path: Path) -> None:
    folders(tmp_path, [1, 2, 3, 4])
    (tmp_path / "step-00000001-best").mkdir()  # a copy of the user's
    name_latest(tmp_path, "step-00000003")  # set back by hand
    prune(tmp_path, 2)
    assert names(tmp_path) == [
        "latest",
        "step-00000001-best",
        "step-00000002",
        "step-00000003",
        "step-00000004",
    ]


def test_prune_goes_on_where_one_cannot_be_deleted(tmp_path: Path) -> None:
    """Nobody loses half of what is write-protected, nor what a link leads to; and it is said."""
    folders(tmp_path / "checkpoints", [1, 2, 3, 4, 5])
    checkpoints, archive = tmp_path / "checkpoints", tmp_path / "archive"
    for folder in checkpoints.iterdir():
        write_text(folder / "weights", "x")
    step_folder(checkpoints, 2).rename(archive)
    step_folder(checkpoints, 2).symlink_to(archive)
    protected = step_folder(checkpoints, 3)
    protected.chmod(0o500)
    said: list[str] = []
    prune(checkpoints, 1, tell=said.append)
    assert names(checkpoints) == ["step-00000003", "step-00000005"]
    assert names(archive) == names(protected) == ["weights"]
    (told,) = said
    assert told.startswith("checkpoint step-00000003 could not be deleted: ")
    assert str(protected) in told
    protected.chmod(0o700)
    prune(checkpoints, 1)
    assert names(checkpoints) == ["step-00000005"]


def test_what_cannot_be_deleted_keeps_no_later_save_from_its_end(
    single_rank: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a network disk a file that another process reads cannot be, nor its folder."""
    unlink = os.unlink

    def refuse(path: str, **options: Any) -> None:
        if str(path).startswith(".nfs"):
            raise OSError(errno.EBUSY, "Device or resource busy", path)
        unlink(path, **options)

    monkeypatch.setattr(os, "unlink", refuse)
    for step in range(1, 6):
        folder = commit(tmp_path, step, single_rank, writer(str(step)))
        prune(tmp_path, 1)
        (folder / ".nfs0001").touch()
        again = tmp_path / f".{step_folder(tmp_path, step + 1).name}.partial"  # killed while it was saved
        again.mkdir()
        (again / ".nfs0002").touch()
    *left, newest = [name for name in names(tmp_path) if name not in ("latest", "step-00000005")]
    assert newest == ".step-00000006.partial"
    assert len(left) == 4 + 4
    assert all(re.fullmatch(r"\.step-0000000\d(-2)?\.gone", name) for name in left)  # a name grows too long
    monkeypatch.undo()
    (tmp_path / ".step-00000001.partial").symlink_to(tmp_path)
    commit(tmp_path, 6, single_rank, writer("6"))
    assert names(tmp_path) == ["latest", "step-00000005", "step-00000006"]
