"""What is told of settings that are others than those of the checkpoint gone on from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from configs.changes import changes
from configs.load import save_config
from configs.schema import Config, DataConfig, ModelConfig, OptimizerConfig, ParallelConfig, SourceConfig

BEFORE = Config(
    model=ModelConfig(path="model"),
    data=DataConfig(sources=[SourceConfig("mine", "a.jsonl", "agent"), SourceConfig("chat", "b", "general")]),
)


def test_nothing_has_changed(tmp_path: Path) -> None:
    save_config(BEFORE, tmp_path / "config.yaml")
    assert changes(tmp_path / "config.yaml", BEFORE) == []


def test_what_is_learned_from_and_how(tmp_path: Path) -> None:
    save_config(BEFORE, tmp_path / "config.yaml")
    sources = [BEFORE.data.sources[0], replace(BEFORE.data.sources[1], weight=2.0)]
    now = replace(
        BEFORE,
        model=ModelConfig(path="model", dtype="float32"),
        optimizer=OptimizerConfig(lr=1e-3, betas=(0.8, 0.9)),
        data=replace(BEFORE.data, sources=sources, system_prompt="Be brief."),
    )
    assert changes(tmp_path / "config.yaml", now) == [
        "model.dtype bfloat16 -> float32",
        "data.system_prompt null -> Be brief.",
        "data.sources.1.weight 1.0 -> 2.0",
        "optimizer.lr 5e-05 -> 0.001",
        "optimizer.betas [0.9, 0.95] -> [0.8, 0.9]",
    ]


def test_what_changes_nothing_is_not_told(tmp_path: Path) -> None:
    save_config(BEFORE, tmp_path / "config.yaml")
    moved = [replace(source, path=f"moved/{source.path}") for source in BEFORE.data.sources]
    now = replace(
        BEFORE, parallel=ParallelConfig(tensor=2), data=replace(BEFORE.data, sources=moved, workers=3)
    )
    assert changes(tmp_path / "config.yaml", now) == []


@pytest.mark.parametrize("content", [None, b"", b"[", b"\xff", b"a: ${b}", b"1"])
def test_what_cannot_be_read_is_not_compared(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "config.yaml").write_bytes(content)
    assert changes(tmp_path / "config.yaml", BEFORE) == []
