"""Two hosts of a hostfile, reached by ssh: by `agenttune train`, and by DeepSpeed's own front end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from ssh_hosts import ADDRESSES, hostfile, missing, ssh_hosts

from tests.distributed.jobs import AGENTTUNE, ENTRY, LIMIT_S, Folder, kill_all, prepared, unmeasured

pytestmark = pytest.mark.alone

LAYOUT = ["parallel.tensor=2", "parallel.pipeline=2"]
GONE_S = 5.0


@pytest.fixture(scope="module")
def reached(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    if why := missing():
        pytest.skip(why)
    with ssh_hosts(tmp_path_factory.mktemp("ssh")) as environment:
        yield environment


@pytest.fixture(scope="module")
def folder(reached: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Folder]:
    folder = prepared(tmp_path_factory.mktemp("hosts"))
    (folder.path / "hostfile").write_text(hostfile(slots=2))
    (folder.path / "one-each").write_text(hostfile(slots=1))
    yield folder
    kill_all(folder)


def start(folder: Folder, reached: dict[str, str], run: str, *overrides: str) -> subprocess.Popen[str]:
    command = [*AGENTTUNE, "train", "config.yaml", "launch.hostfile=hostfile", *LAYOUT]
    return folder.start(*command, f"run.output_dir={run}", *overrides, **reached)


def test_two_hosts_train_as_one_under_both_launchers(folder: Folder, reached: dict[str, str]) -> None:
    """And as one host does. `test_slurm.py` stops such a run, which goes on."""
    steps = ["train.steps=8"]
    process = start(folder, reached, "ours", *steps)
    assert process.wait(LIMIT_S) == 0, folder.output()
    assert f"4 ranks on 2 hosts ({', '.join(ADDRESSES)})" in folder.output()

    front_end = [str(Path(sys.executable).with_name("deepspeed")), "--hostfile", "hostfile"]
    front_end += ["--master_addr", ADDRESSES[0], str(ENTRY), "config.yaml", *LAYOUT, *steps]
    cpu = {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    process = folder.start(*front_end, "run.output_dir=theirs", **reached, **cpu)
    assert process.wait(LIMIT_S) == 0, folder.output()
    assert unmeasured(folder.metrics("theirs")) == unmeasured(folder.metrics("ours"))

    code, output = folder.run(*AGENTTUNE, "train", "config.yaml", *LAYOUT, *steps, "run.output_dir=here")
    assert code == 0, output
    assert unmeasured(folder.metrics("here")) == unmeasured(folder.metrics("ours"))


@pytest.mark.parametrize("victim", ["agent", "command"])
def test_nothing_outlives_what_was_killed(folder: Folder, reached: dict[str, str], victim: str) -> None:
    """One rank on each host."""
    one_each = ["launch.hostfile=one-each", "parallel.tensor=1"]
    process = start(folder, reached, victim, "train.steps=100000", *one_each)
    folder.wait_for_steps(victim, 2, process)
    if victim == "agent":
        found = next(p for p in folder.processes() if "launch.host" in p.cmdline())
    else:
        found = psutil.Process(process.pid)
    found.kill()
    killed = time.monotonic()
    code = process.wait(LIMIT_S)
    _, alive = psutil.wait_procs(folder.processes(), timeout=LIMIT_S)
    assert not alive, folder.output()
    assert time.monotonic() - killed < GONE_S, folder.output()
    assert code == (1 if victim != "command" else -signal.SIGKILL)
    assert victim == "command" or "was lost: ssh ended with" in folder.output()
    assert os.path.exists(folder.path / victim / "logs" / "rank-00001.log")


@pytest.mark.long
def test_a_signal_to_the_command_is_heard_on_both_hosts(folder: Folder, reached: dict[str, str]) -> None:
    steps = ["launch.hostfile=one-each", "parallel.tensor=1", "train.steps=40"]
    process = start(folder, reached, "stopped", *steps)
    folder.wait_for_steps("stopped", 2, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(LIMIT_S) == 75, folder.output()
    done = len(folder.metrics("stopped"))
    assert (folder.path / "stopped/checkpoints/latest").read_text().strip() == f"step-{done:08d}"
    assert start(folder, reached, "stopped", *steps).wait(LIMIT_S) == 0, folder.output()
    assert f"resumed after step {done}" in folder.output()


def test_a_host_that_is_not_reached(folder: Folder, reached: dict[str, str]) -> None:
    (folder.path / "other").write_text(f"{ADDRESSES[0]} slots=2\n127.0.0.9 slots=2\n")
    process = start(folder, reached, "unreached", "launch.hostfile=other")
    assert process.wait(LIMIT_S) == 1, folder.output()
    assert "host 127.0.0.9 was lost: ssh ended with 255" in folder.output()
