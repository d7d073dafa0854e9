"""R12, R11: whole jobs as users start them, killed or told to stop at any time, and started again."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import psutil
import pytest
from lab import Straight, measured, visible
from trials import LONG, Trials

from configs.errors import REQUEUE
from tests.distributed.jobs import AGENTTUNE, Folder, kill_all

pytestmark = pytest.mark.alone

CYCLES = 10 if LONG else 4
START_S = 6.0
"""About what a job takes to its first step where nothing else runs."""
GONE_S = 30
ALLOWED = {"killed": (1, -signal.SIGKILL, 0), "stopped": (REQUEUE, 0)}
"""Exit codes; 0 of a run that was at its end before."""
SHARED = Path("/dev/shm")


@pytest.fixture
def job(tmp_path: Path, killed_build: Path) -> Iterator[Folder]:
    job = Folder(tmp_path)
    yield job
    kill_all(job)
    assert [file.name for file in killed_build.rglob("*") if file.is_file()] == ["lock"]


@pytest.fixture
def killed_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What is left where a process was killed while it built DeepSpeed's extension: a lock that every later build waits
    for without an end."""
    folder = tmp_path / "extensions"
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(folder))
    (folder / "deepspeed_shm_comm").mkdir(parents=True)
    (folder / "deepspeed_shm_comm" / "lock").touch()
    return folder


def test_crashes_leave_nothing_in_the_way_of_the_next_start(
    trials: Trials, straight: Callable[[str], Straight], job: Folder
) -> None:
    """Each trial is a run that is started again and again, until it is let alone and has to come to its end."""
    run = straight("TP2")
    held = "no lock, shared memory, port, orphan stops a start; the same end, bit by bit"
    for trial in trials(f"R12 {CYCLES} crashes or stops, then a whole run", held, few=1, of=4):
        folder = job.path / str(trial.number)
        command = [*AGENTTUNE, "train", str(run.config), *run.overrides, f"run.output_dir={folder}"]
        with trial:
            slowest, shared = 0.0, set(os.listdir(SHARED))
            for cycle in range(CYCLES):
                process = job.start(*command)
                wait_for_a_moment(process, folder, trial.random)
                done = (kill if cycle % 2 == 0 else stop)(job, process, trial.random)
                began = time.monotonic()
                left = left_behind(job)
                slowest = max(slowest, time.monotonic() - began)
                assert not left, f"{done}, which left behind {left}\n{job.output()}"
                assert process.wait() in ALLOWED[done.split()[0]], (
                    f"{done}: {process.returncode}\n{job.output()}"
                )
                assert (
                    set(os.listdir(SHARED)) <= shared or not LONG
                )  # others may be at work beside a short run
                visible(folder)
            code, said = job.run(*command)
            assert code == 0, said
            run.compare(folder)
            trial.seconds = slowest
            shutil.rmtree(folder)


def wait_for_a_moment(process: subprocess.Popen[str], folder: Path, random: Random) -> None:
    """Any in the start, or in the step and the save after the first one."""
    if random.random() < 0.5:
        time.sleep(random.uniform(0, START_S))
        return
    steps = max(visible(folder), default=0) + 1
    while process.poll() is None and len(measured(folder)) < steps:
        time.sleep(0.02)
    time.sleep(random.uniform(0, 0.3))


def kill(job: Folder, process: subprocess.Popen[str], random: Random) -> str:
    """Any process of the job, or all at once."""
    processes = job.processes()
    victims = processes if random.random() < 0.25 else random.sample(processes, min(1, len(processes)))
    for victim in victims:
        with contextlib.suppress(psutil.NoSuchProcess):
            victim.kill()
    return f"killed {victims}"


def stop(job: Folder, process: subprocess.Popen[str], random: Random) -> str:
    """By a signal, or two, which it hears as soon as it has begun to start something."""
    while process.poll() is None and len(job.processes()) < 2:
        time.sleep(0.02)
    numbers = random.choices((signal.SIGTERM, signal.SIGUSR1), k=random.choice((1, 2)))
    for number in numbers:
        process.send_signal(number)
        time.sleep(random.uniform(0, 0.5))
    return f"stopped by {numbers}"


def left_behind(job: Folder) -> list[psutil.Process]:
    deadline = time.monotonic() + GONE_S
    while (left := job.processes()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left
