"""A notice is printed by one process of a command alone, and once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from configs.schema import SourceConfig
from trainer.data.notices import LAUNCHER_VARIABLE, tell_once
from trainer.data.sources import open_source


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process that has told nothing yet and is no rank."""
    for name in ("RANK", LAUNCHER_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    tell_once.cache_clear()
    yield
    tell_once.cache_clear()


@pytest.mark.parametrize(
    ("environment", "tells"),
    [
        ({}, True),  # preview, lint, or `agenttune train` before its ranks
        ({"RANK": "0"}, True),  # of deepspeed or torchrun
        ({"RANK": "1"}, False),
        ({"RANK": "0", LAUNCHER_VARIABLE: "7"}, False),
        ({"RANK": "1", LAUNCHER_VARIABLE: "7"}, False),
    ],
)
def test_files_left_out_are_told_once_for_a_command(
    environment: dict[str, str],
    tells: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("train.jsonl", "test.jsonl"):
        (tmp_path / name).write_text("{}")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    for _ in range(2):
        open_source(SourceConfig(name="mine", path=str(tmp_path), role="agent"))
    told = capsys.readouterr().err
    assert told.count("1 file(s) of") == told.count("whose names say test or validation") == int(tells)
    assert str(tmp_path / "test.jsonl") in told or not tells


def test_another_notice_is_another(capsys: pytest.CaptureFixture[str]) -> None:
    for notice in ("one", "two", "one"):
        tell_once(notice)
    assert capsys.readouterr().err == "one\ntwo\n"
