"""R9, R10: whole jobs, one of whose ranks fails, leaves, is stopped or holds the GIL: all end, and the rank is named.

The long form of `tests/distributed/test_watchdog.py`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from trials import LONG, Trials

from tests.distributed.jobs import (
    END_CODES,
    FAILURES,
    HELD_GIL,
    LAUNCHERS,
    LIMIT_S,
    Folder,
    endless,
    kill_all,
    planted,
    prepared,
    stop,
)

pytestmark = [
    pytest.mark.alone,
    pytest.mark.skipif(not LONG, reason="the long form of test_watchdog.py: make faults"),
]

HANG_S = 3.0
END_S = 2.0
"""Within which all is to be gone once it is known to hang, or once a rank has failed."""


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Folder]:
    job = prepared(tmp_path)
    yield job
    kill_all(job)


def test_a_rank_that_does_not_go_on(trials: Trials, job: Folder) -> None:
    held = "every process gone in the limit + 2 s, exit not 0, the rank named, the other's stack"
    for trial in trials("R10 SIGSTOP, a held GIL", held, few=2, of=50):
        kind, launcher, rank = trial.turn(("stop", "gil")), trial.turn(list(LAUNCHERS)), trial.turn(range(2))
        command = [*LAUNCHERS[launcher], "config.yaml", *endless(str(trial.number))]
        command.append(f"run.hang_seconds={HANG_S}")
        with trial:
            if kind == "gil":
                (job.path / "planted.txt").unlink(missing_ok=True)
                process, since = planted(job, rank, HELD_GIL, *command)
                found = f"rank {rank} is in a call that holds the GIL"
            else:
                process = job.start(*command)
                job.wait_for_steps(str(trial.number), 1, process)
                time.sleep(trial.random.uniform(0, 0.5))
                since, found = stop(job, rank), f"rank {rank} is stopped (by SIGSTOP or a debugger)"
            code = process.wait(LIMIT_S)
            _, alive = psutil.wait_procs(job.processes(), timeout=10)
            trial.seconds = time.time() - since
            said = job.output()
            assert code in END_CODES[launcher], said
            assert not alive, said
            assert trial.seconds < HANG_S + END_S, f"{launcher}: {trial.seconds:.1f} s\n{said}"
            assert any(
                "no progress for 3 s" in line and line.endswith(found) for line in said.splitlines()
            ), said
            assert f"agenttune: rank {1 - rank} stands at (most recent call first):" in said, said


def test_a_rank_that_fails_is_named(trials: Trials, job: Folder) -> None:
    held = "every process gone in 2 s, exit not 0, the rank named"
    for trial in trials("R9 whole jobs: raises, no data, leaves, killed", held, few=4, of=200):
        (code, expected, named), rank = trial.turn(FAILURES), trial.turn(range(2))
        with trial:
            (job.path / "planted.txt").unlink(missing_ok=True)
            command = [*LAUNCHERS["agenttune"], "config.yaml", *endless(str(trial.number))]
            process, since = planted(job, rank, code, *command)
            ended = process.wait(LIMIT_S)
            _, alive = psutil.wait_procs(job.processes(), timeout=10)
            trial.seconds = time.time() - since
            said = job.output()
            assert ended == expected, said
            assert not alive, said
            assert trial.seconds < END_S, f"{trial.seconds:.1f} s\n{said}"
            assert named.format(rank) in said.splitlines(), said
