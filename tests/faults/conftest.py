from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rank_pool import RankPool

from tests.distributed.tiny import layout, write_config, write_model

pytest.register_assert_rewrite("lab")
from lab import STEPS, Straight  # noqa: E402 (its assertions then say more)

LAYOUTS: dict[str, tuple[list[str], int, dict[str, Any]]] = {
    "TP2": (layout(2), 2, {}),  # as the command starts it
    "PP2": (layout(1, 2), 2, {"draws": True}),
    "DP2": (
        layout(1, 1, 2),
        2,
        {"draws": True, "max_bytes": 100_000},
    ),  # each rank has a file of weights to write
    "TP2 files": (layout(2), 2, {"max_bytes": 40_000}),  # each rank gathers those of both, and writes one
    "TP2 PP2": (layout(2, 2), 4, {"draws": True}),
}
"""How a run is laid out, its ranks, and what else its task is told."""


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sizes: dict[str, Any] = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    return write_model(tmp_path_factory.mktemp("model"), num_hidden_layers=2, **sizes)


@pytest.fixture(scope="session")
def straight(
    ranks: RankPool, small_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Straight]:
    """The run of a layout that nothing happened to, made when it is first asked for."""
    made: dict[str, Straight] = {}

    def of(name: str) -> Straight:
        if name not in made:
            folder = tmp_path_factory.mktemp("straight")
            optimizer = {"lr": 1e-3, "schedule": "cosine", "warmup_ratio": 0.3}
            sections = {"train": {"steps": STEPS}, "optimizer": optimizer, "checkpoint": {"every": 1}}
            config = write_config(folder / "run.yaml", small_model, **sections)
            overrides, processes, task = LAYOUTS[name]
            run = Straight(ranks, config, tuple(overrides), processes, folder / "run", task)
            ended = run.start(run.folder)
            assert ended.code == 0, ended.told
            made[name] = replace(run, seconds=ended.seconds, events=ended.events)
        return made[name]

    return of
