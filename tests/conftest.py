"""What tests of several kinds share: the ranks, and trials of faults with their table."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

# Before torch is imported: threads of several processes on the same cores wait for each other longer than they compute.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from rank_pool import RankPool
from trials import LONG, Row, Trials, drawn

LONG_TESTS = os.environ.get("LONG_TESTS") == "1"
TABLE = pytest.StashKey[list[Row]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[TABLE] = []


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    left_out = [] if LONG_TESTS else [item for item in items if item.get_closest_marker("long")]
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=left_out)


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
            if report.when == "call" and not name.startswith(("tests/faults", "tests/slurm")):
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
def ranks() -> Iterator[RankPool]:
    """One for each process that runs tests: what it imports takes seconds."""
    pool = RankPool()
    yield pool
    pool.close()
