from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from trials import LONG, Row, Trials, drawn

from tests.distributed.rank_pool import RankPool
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
TABLE = pytest.StashKey[list[Row]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[TABLE] = []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if LONG:
        terminalreporter.section("faults")
        for line in drawn([*config.stash[TABLE], *other_rows(terminalreporter)]):
            terminalreporter.write_line(line)


def other_rows(reporter: pytest.TerminalReporter) -> list[Row]:
    """A row for each test that is no test of trials: how often it was run, whatever it has by itself gone through."""
    rows: dict[str, Row] = {}
    for outcome in ("passed", "failed"):
        for report in reporter.getreports(outcome):
            name = report.nodeid.partition("[")[0]
            if report.when == "call" and not name.startswith("tests/faults"):
                row = rows.setdefault(name, Row(name, "it passed"))
                row.trials += 1
                row.failures += outcome == "failed"
                row.worst_s = max(row.worst_s, report.duration)
    return list(rows.values())


@pytest.fixture
def trials(request: pytest.FixtureRequest) -> Trials:
    capture: Any = request.config.pluginmanager.getplugin("capturemanager")

    def tell(line: str) -> None:
        if LONG and capture:
            with capture.global_and_fixture_disabled():
                print(f"\n{line}", end="", flush=True)

    return Trials(request.node.nodeid, request.config.stash[TABLE], tell)


@pytest.fixture(scope="session")
def pool() -> Iterator[RankPool]:
    pool = RankPool(Path(__file__).with_name("fault_tasks.py"))
    yield pool
    pool.close()


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
    pool: RankPool, small_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Straight]:
    """The run of a layout that nothing happened to, made when it is first asked for."""
    made: dict[str, Straight] = {}

    def of(name: str) -> Straight:
        if name not in made:
            folder = tmp_path_factory.mktemp("straight")
            optimizer = {"lr": 1e-3, "schedule": "cosine", "warmup_ratio": 0.3}
            sections = {"train": {"steps": STEPS}, "optimizer": optimizer, "checkpoint": {"every": 1}}
            config = write_config(folder / "run.yaml", small_model, **sections)
            overrides, ranks, task = LAYOUTS[name]
            run = Straight(pool, config, tuple(overrides), ranks, folder / "run", task)
            ended = run.start(run.folder)
            assert ended.code == 0, ended.told
            made[name] = replace(run, seconds=ended.seconds, events=ended.events)
        return made[name]

    return of
