"""R9 on two hosts: a rank fails or leaves, all of the job's processes on both hosts are gone, and it is named.

The long form of `test_a_killed_rank_fails_the_job` in test_slurm.py.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from ssh_hosts import hostfile, missing, ssh_hosts
from trials import LONG, Trials

from tests.distributed.jobs import AGENTTUNE, FAILURES, LIMIT_S, Folder, kill_all, planted, prepared

pytestmark = [
    pytest.mark.alone,
    pytest.mark.skipif(not LONG, reason="the long form of test_slurm.py: make faults"),
]

GONE_S = 5.0


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Folder]:
    job = prepared(tmp_path)
    yield job
    kill_all(job)


@pytest.fixture
def reached(tmp_path: Path) -> Iterator[dict[str, str]]:
    if why := missing():
        pytest.skip(why)
    with ssh_hosts(tmp_path) as environment:
        yield environment


def test_a_rank_that_fails_is_named(trials: Trials, job: Folder, reached: dict[str, str]) -> None:
    held = "every process of both hosts gone in 5 s, exit not 0, the rank named"
    (job.path / "hostfile").write_text(hostfile(slots=2))
    command = [*AGENTTUNE, "train", "config.yaml", "launch.hostfile=hostfile", "parallel.tensor=2"]
    command += ["train.steps=100000", "checkpoint.every=null"]
    for trial in trials("R9 two hosts: raises, no data, leaves, killed", held, few=4, of=50):
        (code, expected, named), rank = trial.turn(FAILURES), trial.turn(range(4))
        with trial:
            (job.path / "planted.txt").unlink(missing_ok=True)
            run = f"run.output_dir={trial.number}"
            process, since = planted(job, rank, code, *command, run, **reached)
            ended = process.wait(LIMIT_S)
            _, alive = psutil.wait_procs(job.processes(), timeout=10)
            trial.seconds = time.time() - since
            said = job.output()
            assert ended == expected, said
            assert not alive, said
            assert trial.seconds < GONE_S, f"{trial.seconds:.1f} s\n{said}"
            assert any(line.startswith(named.format(rank)) for line in said.splitlines()), said
