"""Jobs of a real Slurm on two nodes: they end well, are queued again and go on, or fail, and Slurm knows which."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator

import psutil
import pytest
from cluster import Cluster

from tests.distributed.jobs import AGENTTUNE, LIMIT_S, Folder, kill_all, prepared, unmeasured

pytestmark = pytest.mark.alone

STEPS = 40
LAYOUT = ["parallel.tensor=2", "parallel.pipeline=2", f"train.steps={STEPS}", "checkpoint.every=1000"]
ENDLESS = ["parallel.tensor=1", "train.steps=100000"]
"""One rank on each node."""
GONE_S = 5.0
"""Within which nothing of a job is left on its two nodes after a rank has failed."""


@pytest.fixture(scope="module")
def folder(slurm: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Folder]:
    folder = prepared(tmp_path_factory.mktemp("slurm"))
    yield folder
    kill_all(folder)


@pytest.fixture(scope="module")
def whole(slurm: Cluster, folder: Folder) -> Job:
    """A job that nothing happens to."""
    job = Job(slurm, folder, "whole")
    job.wait_for("COMPLETED", "FAILED")
    return job


class Job:
    """A submitted job, and what Slurm and its log say of it."""

    def __init__(self, slurm: Cluster, folder: Folder, run: str, *overrides: str) -> None:
        options = ["--nodes", "2", "--gpus-per-node", "0", "--partition", "low", "--name", run]
        command = [
            *AGENTTUNE,
            "submit",
            "config.yaml",
            *options,
            *LAYOUT,
            f"run.output_dir={run}",
            *overrides,
        ]
        process = folder.start(*command, **slurm.environment)
        assert process.wait(LIMIT_S) == 0, folder.output()
        told = re.search(r"Submitted batch job (\d+)", folder.output())
        assert told, folder.output()
        self.number, self._slurm, self._log = told[1], slurm, folder.path / f"{run}-{told[1]}.log"

    def facts(self) -> dict[str, str]:
        return self._slurm.job(self.number)

    def log(self) -> str:
        return self._log.read_text() if self._log.exists() else ""

    def wait_for(self, *states: str) -> str:
        self.wait_until(lambda: self.facts()["JobState"] in states)
        return self.facts()["JobState"]

    def wait_until(self, holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + LIMIT_S
        while not holds():
            assert time.monotonic() < deadline, f"{self.facts()}\n{self.log()}"
            time.sleep(0.05)

    def wait_for_steps(self, folder: Folder, run: str, steps: int) -> None:
        file = folder.path / run / "metrics.jsonl"
        self.wait_until(lambda: file.exists() and file.read_bytes().count(b"\n") >= steps)


def test_a_job_of_two_nodes_ends_well(folder: Folder, whole: Job) -> None:
    """`test_hostfile.py` compares the losses of two hosts with those of one."""
    facts = whole.facts()
    assert (facts["JobState"], facts["ExitCode"], facts["Restarts"]) == ("COMPLETED", "0:0", "0"), whole.log()
    assert len(folder.metrics("whole")) == STEPS
    assert "starting 4 ranks on 2 hosts (n0, n1)" in whole.log()
    assert "srun" not in whole.log()
    assert "\n\n" not in whole.log()
    logs = sorted(path.name for path in (folder.path / "whole/logs").iterdir())
    assert logs == [f"rank-0000{rank}.log" for rank in range(4)]


def test_a_job_that_is_told_to_stop_and_one_that_is_preempted_go_on(
    slurm: Cluster, folder: Folder, whole: Job
) -> None:
    job = Job(slurm, folder, "again")
    job.wait_for_steps(folder, "again", 3)
    slurm.command(
        "scancel", "--batch", "--signal=USR1", job.number
    )  # as --signal=B: does before the time is over
    job.wait_until(lambda: job.facts()["Restarts"] == "1")
    job.wait_until(lambda: "resumed after step" in job.log())
    assert f"agenttune: job {job.number} is queued again, to go on" in job.log()
    (at,) = map(int, re.findall(r"resumed after step (\d+)", job.log()))
    job.wait_for_steps(folder, "again", at + 3)
    urgent = slurm.command(
        "sbatch",
        "--parsable",
        "--nodes=2",
        "--exclusive",
        "--partition=high",
        "--output=/dev/null",
        "--wrap",
        "sleep 1",
    )
    job.wait_until(lambda: job.facts()["Restarts"] == "2")
    assert job.wait_for("COMPLETED", "FAILED") == "COMPLETED", job.log()
    assert slurm.job(urgent.strip())["JobState"] == "COMPLETED"
    assert job.facts()["ExitCode"] == "0:0"
    assert "srun" not in job.log()
    assert unmeasured(folder.metrics("again")) == unmeasured(folder.metrics("whole"))
    print(job.log())


def test_a_killed_rank_fails_the_job(slurm: Cluster, folder: Folder) -> None:
    job = Job(slurm, folder, "killed", *ENDLESS)
    job.wait_for_steps(folder, "killed", 2)
    (rank,) = (p for p in folder.processes(ranks_only=True) if p.environ()["RANK"] == "1")
    rank.kill()
    killed = time.monotonic()
    _, alive = psutil.wait_procs(folder.processes(), timeout=LIMIT_S)
    seconds = time.monotonic() - killed
    assert not alive
    assert seconds < GONE_S, job.log()
    assert job.wait_for("COMPLETED", "FAILED") == "FAILED", job.log()
    assert job.facts()["ExitCode"] == "1:0"
    ended = "agenttune: the training was ended: rank 1 failed, was killed or left first (on n1)"
    assert ended in job.log().splitlines()
    assert "Error" not in job.log()  # of ranks that only lost their peer


def test_a_cancelled_job_is_not_queued_again(slurm: Cluster, folder: Folder) -> None:
    job = Job(slurm, folder, "cancelled", *ENDLESS)
    job.wait_for_steps(folder, "cancelled", 2)
    slurm.command("scancel", job.number)
    _, alive = psutil.wait_procs(folder.processes(), timeout=LIMIT_S)
    assert not alive
    assert job.wait_for("CANCELLED") == "CANCELLED"
    time.sleep(1)
    assert job.facts()["Restarts"] == "0"
    assert job.facts()["JobState"] == "CANCELLED"
    assert (folder.path / "cancelled/checkpoints/latest").exists()  # it had time to save


def test_a_bad_setting_fails_before_the_queue(slurm: Cluster, folder: Folder) -> None:
    (folder.path / "bad.jsonl").write_text("{")
    options = ["--nodes", "2", "--gpus-per-node", "0", "run.output_dir=bad", "data.sources.0.path=bad.jsonl"]
    process = folder.start(*AGENTTUNE, "submit", "config.yaml", *options, *LAYOUT, **slurm.environment)
    assert process.wait(LIMIT_S) == 3, folder.output()
    assert "bad.jsonl:1: no JSON" in folder.output()
    assert "Submitted" not in folder.output()
    options = ["--nodes", "3", "--gpus-per-node", "0", "--dry-run"]
    code, output = folder.run(*AGENTTUNE, "submit", "config.yaml", *options, *LAYOUT)
    assert code == 2
    assert "= 4 processes on 3 hosts: must be a multiple of 3" in output
