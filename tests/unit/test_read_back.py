"""What was written is read back before a checkpoint is committed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from trainer.checkpoint import read_back
from trainer.checkpoint.manifest import FileRecord
from trainer.checkpoint.read_back import ReadBack, check_back
from trainer.checkpoint.tensors import write_tensors

NAMES = ("model.safetensors", "training_state/state.safetensors")


@pytest.fixture
def records(tmp_path: Path) -> dict[str, FileRecord]:
    (tmp_path / "training_state").mkdir()
    return {name: write_tensors(tmp_path / name, {"x": torch.arange(9.0)}) for name in NAMES}


def test_files_as_they_were_written(tmp_path: Path, records: dict[str, FileRecord]) -> None:
    with ReadBack(tmp_path) as back:
        for name, record in records.items():
            back.add({name: record})
        assert back.settle() == records


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda content: content[:-1], "reads back other bytes than were written"),
        (lambda content: content[:-1] + b"?", "reads back other bytes than were written"),
        (lambda content: content + b"\0", "reads back other bytes than were written"),
        (None, "No such file"),
    ],
    ids=["cut", "changed", "lengthened", "gone"],
)
def test_a_file_that_is_another(
    name: str,
    change: Callable[[bytes], bytes] | None,
    said: str,
    tmp_path: Path,
    records: dict[str, FileRecord],
) -> None:
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).unlink()
    if change:
        (tmp_path / name).write_bytes(change(content))
    with ReadBack(tmp_path) as back:
        back.add(records)
        with pytest.raises(OSError, match=said) as raised:
            back.settle()
    assert str(tmp_path / name) in str(raised.value)


def test_a_save_goes_on_while_files_are_read(
    tmp_path: Path, records: dict[str, FileRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    may_end = threading.Event()

    def slow(file: Path, record: FileRecord) -> None:
        assert may_end.wait(60)
        check_back(file, record)

    monkeypatch.setattr(read_back, "check_back", slow)
    with ReadBack(tmp_path) as back:
        back.add(records)  # which does not wait
        may_end.set()
        assert back.settle() == records
