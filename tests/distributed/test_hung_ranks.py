"""Ranks without torch that hang in each way there is: what is told of them, who ends them, and who is left alone."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import psutil
import pytest

from launch.ranks import Ranks

pytestmark = pytest.mark.alone

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 2.0
LATE_S = 8.0
"""Seconds beyond the limit in which all must have ended: two if the machine has nothing else to do."""
RANK = """
import ctypes, os, signal, sys, time
from trainer.watchdog import Watchdog, beat

calls = {}
exec(compile("import time\\ndef wait(): time.sleep(1000)", "/x/torch/distributed/c10d.py", "exec"), calls)
wait = calls["wait"]
mutex, lock = ctypes.create_string_buffer(64), ctypes.PyDLL(None).pthread_mutex_lock

def hold_gil():
    lock(mutex), lock(mutex)

limit, before, within, after = float(sys.argv[1]), *sys.argv[2:]
exec(before)
with Watchdog(int(os.environ["RANK"])) as watch:
    watch.limit_s = limit
    beat(7)
    print("at work", flush=True)
    exec(within)
exec(after)
"""
LAUNCHER = """
import json, os, subprocess, sys
ranks = [
    subprocess.Popen(command, env=os.environ | {"RANK": str(rank)})
    for rank, command in enumerate(json.loads(sys.argv[1]))
]
sys.exit(max([rank.wait() != 0 for rank in ranks]))
"""


def command(within: str, *, before: str = "", after: str = "", limit: float = LIMIT_S) -> list[str]:
    """A rank that does this at its work."""
    return [sys.executable, "-c", RANK, str(limit), before, within, after]


class Machine:
    """Ranks whose launcher is this process."""

    def __init__(self) -> None:
        self.ranks: list[subprocess.Popen[str]] = []
        self.job = uuid4().hex

    def start(self, command: list[str], *, job: str | None = None, stderr: int = subprocess.PIPE) -> None:
        variables = {"RANK": str(len(self.ranks)), "MASTER_ADDR": job or self.job, "PYTHONPATH": str(ROOT)}
        rank = subprocess.Popen(
            command, env=os.environ | variables, stdout=subprocess.PIPE, stderr=stderr, text=True
        )
        self.ranks.append(rank)

    def at_work(self) -> None:
        for rank in self.ranks:
            assert rank.stdout
            assert rank.stdout.readline() == "at work\n"

    def end(self) -> tuple[list[int], str]:
        """Exit codes, and what all of them have said."""
        said = [rank.communicate(timeout=LIMIT_S + LATE_S)[1] or "" for rank in self.ranks]
        return [rank.returncode for rank in self.ranks], "".join(said)


@pytest.fixture
def machine() -> Iterator[Machine]:
    machine = Machine()
    yield machine
    for rank in machine.ranks:
        rank.kill()
        rank.communicate()


HANGS: dict[str, tuple[str, str, str]] = {
    "stands elsewhere": (
        "time.sleep(1000)",
        "",
        "stands elsewhere than in a collective, where the others wait",
    ),
    "holds the GIL": ("hold_gil()", "", "is in a call that holds the GIL"),
    "does not answer": (
        "hold_gil()",
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])",
        "does not answer",
    ),
}


@pytest.mark.parametrize("how", HANGS)
def test_the_rank_that_keeps_the_others_waiting_is_named(machine: Machine, how: str) -> None:
    within, before, found = HANGS[how]
    guilty = random.randrange(3)
    for rank in range(3):
        machine.start(command(within, before=before) if rank == guilty else command("wait()"))
    codes, said = machine.end()
    assert sorted(codes) == [-signal.SIGKILL, -signal.SIGKILL, 1]
    first, *rest = said.splitlines()
    assert first.startswith(f"agenttune: no progress for {LIMIT_S:.0f} s after step 7: rank {guilty} {found}")
    stacks = [line for line in rest if "stands at (most recent call first):" in line]
    answering = [rank for rank in range(3) if rank != guilty or how != "does not answer"]
    assert [int(line.split()[2]) for line in stacks] == answering
    assert said.count("/x/torch/distributed/c10d.py") == 2
    assert said.count("in hold_gil") == (how == "holds the GIL")
    assert "too busy" not in said
    assert "too busy" not in said
    assert "watchdog.py" not in said


def test_a_stopped_rank_is_killed(machine: Machine) -> None:
    stopped = random.randrange(3)
    for _ in range(3):
        machine.start(command("wait()", limit=1))
    machine.at_work()
    machine.ranks[stopped].send_signal(signal.SIGSTOP)
    codes, said = machine.end()
    assert codes[stopped] == -signal.SIGKILL
    assert f": rank {stopped} is stopped (by SIGSTOP or a debugger)\n" in said


def test_a_rank_that_has_ended_is_named(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_SIZE", "2")
    machine.start(command("wait()", limit=1))
    machine.start(command("os._exit(0)", limit=1))
    codes, said = machine.end()
    assert codes == [1, 0]
    assert ": rank 1 has ended\n" in said


def test_a_rank_that_failed_and_does_not_end_is_named(machine: Machine) -> None:
    machine.start(command("wait()"))
    machine.start(command("", after="time.sleep(1000)"))
    codes, said = machine.end()
    assert codes == [1, -signal.SIGKILL]
    assert ": rank 1 has finished or failed, but does not end\n" in said
    assert 'line 1 in <module>\n  File "<string>"' in said[said.index("agenttune: rank 1") :]


def test_the_only_rank_of_a_machine_holds_the_gil(machine: Machine) -> None:
    machine.start(command("time.sleep(0.5); hold_gil()", limit=1))
    codes, said = machine.end()
    assert codes == [1]
    assert "in hold_gil" in said


def test_whoever_goes_on_is_left_alone(machine: Machine) -> None:
    """Steps are taken, or another rank of the job goes on, as when it writes a checkpoint: many files, no step."""
    machine.start(command("time.sleep(2.5)", limit=1))
    machine.start(command("for step in range(25): time.sleep(0.1); beat(step)", limit=1))
    machine.start(command("for file in range(25): time.sleep(0.1); beat()", limit=1))
    assert machine.end() == ([0, 0, 0], "")


def test_another_job_of_the_same_shell_is_left_alone(machine: Machine) -> None:
    machine.start(command("time.sleep(1000)", limit=1))
    machine.start(command("time.sleep(3)", limit=1000), job="other")
    codes, said = machine.end()
    assert codes == [1, 0]
    assert "rank 1" not in said


def test_a_held_terminal_does_not_keep_a_job_from_ending(machine: Machine) -> None:
    read, write = os.pipe()
    os.set_blocking(write, False)
    while True:
        try:
            os.write(write, b"x" * 4096)
        except BlockingIOError:
            break
    os.set_blocking(write, True)
    for _ in range(2):
        machine.start(command("wait()", limit=1), stderr=write)
    codes, _ = machine.end()
    assert sorted(codes) == [-signal.SIGKILL, 1]
    os.close(read)
    os.close(write)


class Job:
    """Ranks below a launcher that waits for all of them, as seen by the command above it."""

    def __init__(self, *commands: list[str]) -> None:
        environment = {name: value for name, value in os.environ.items() if name != "RANK"}
        self.launcher = subprocess.Popen(
            [sys.executable, "-c", LAUNCHER, json.dumps(commands)],
            env=environment | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.ranks = Ranks(self.launcher, len(commands))
        assert self.launcher.stdout
        self.said = [self.launcher.stdout.readline() for _ in commands]
        self.processes = self.ranks.alive()

    def end(self) -> int:
        """The exit code; nothing of the job is left."""
        code = self.ranks.settle(self.launcher.wait(LIMIT_S + LATE_S))
        _, alive = psutil.wait_procs(list(self.processes.values()), timeout=2)
        assert not alive
        return code


def test_the_command_ends_ranks_that_are_all_stopped() -> None:
    job = Job(command("wait()", limit=1), command("wait()", limit=1))
    for process in job.processes.values():
        process.suspend()
    assert job.end() == 1
    assert job.ranks.hang == ", ".join(f"rank {n} is stopped (by SIGSTOP or a debugger)" for n in (0, 1))


def test_no_rank_outlives_one_that_failed() -> None:
    """Not one that is stopped, nor one that does not listen; the limit is far away."""
    deaf = "signal.signal(signal.SIGTERM, signal.SIG_IGN); wait()"
    job = Job(
        command(deaf, limit=1000), command("time.sleep(1); 1 / 0", limit=1000), command("wait()", limit=1000)
    )
    job.processes[2].suspend()
    begun = time.monotonic()
    assert job.end() == 1
    assert time.monotonic() - begun < LIMIT_S + LATE_S
    assert job.ranks.first_failed == 1
    assert not job.ranks.hang


@pytest.fixture
def many_files() -> Iterator[None]:
    """A file of data is a descriptor or two of the command's: some thousand files, and theirs have higher numbers."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    descriptors = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    yield
    for descriptor in descriptors:
        os.close(descriptor)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many_files")
def test_ranks_are_watched_however_many_files_are_open() -> None:
    job = Job(command("time.sleep(1); 1 / 0", limit=1000), command("wait()", limit=1000))
    assert job.end() == 1
    assert job.ranks.first_failed == 0


@pytest.mark.parametrize("count", [1, 2])
def test_an_early_exit_is_a_failure_whatever_its_code(count: int) -> None:
    job = Job(*[command("time.sleep(1); os._exit(0)")] * count)
    assert job.end() == 1
    assert job.ranks.first_failed is not None


def test_a_rank_that_is_done_is_left_to_end_by_itself() -> None:
    """Longer than the limit, and though another fails meanwhile."""
    job = Job(command("", after="time.sleep(3)", limit=1), command("time.sleep(0.5); os._exit(3)", limit=1))
    begun = time.monotonic()
    assert job.end() == 1
    assert time.monotonic() - begun > 2.5
    assert job.ranks.first_failed == 1


@pytest.mark.parametrize("code", [0, 75])
def test_a_job_that_ends_well(code: int) -> None:
    work = command(f"time.sleep(1); watch.code = {code}", after="sys.exit(watch.code)")
    job = Job(work, work)
    assert job.end() == code
    assert job.ranks.first_failed is None
    assert not job.ranks.hang


TELL = "import atexit; atexit.register(lambda: (print(watch.tells(2)), time.sleep(1)))"
FAIL = "error = ValueError('bad'); error.exit_code = 3; time.sleep({}); raise error"

MEETS = "time.sleep(1.5); watch.meets_alike()"
"""When all are at work, which they need not begin at the same moment."""


def told(machine: Machine) -> list[str]:
    return [rank.communicate(timeout=30)[0].split()[-1] for rank in machine.ranks]


def test_an_error_that_all_ranks_meet_is_told_by_one(machine: Machine) -> None:
    for late in (0.2, 0.1, 0.8):
        machine.start(command(FAIL.format(late), before=TELL))
    assert sorted(told(machine)) == ["False", "False", "True"]


ALONE = {
    "watch.begins(4); time.sleep(1000)": True,
    "watch.begins(3); time.sleep(2.3); watch.begins(4); time.sleep(1000)": True,
    "watch.begins(3); time.sleep(1000)": False,
    "watch.begins(3); time.sleep(1.5); watch.meets_alike(); time.sleep(1000)": False,
}
"""What another rank does beside one that has no data for step 4, and whether that one is known to be alone."""


@pytest.mark.parametrize("other", ALONE)
def test_a_rank_whose_data_others_get_is_alone(other: str, machine: Machine) -> None:
    """Where they do not come to the step, being at the log say, nobody knows."""
    tell = "import atexit; atexit.register(lambda: print(watch.tells(2), watch.is_alone()))"
    machine.start(command(f"watch.begins(3); {FAIL.format(1.5)}", before=tell, limit=1000))
    machine.start(command(other, limit=1000))
    said = machine.ranks[0].communicate(timeout=30)[0]
    assert said.split()[-2:] == ["True", str(ALONE[other])]


@pytest.mark.parametrize(("seconds", "teller"), [(1.5, 0), (6, 1)])
def test_the_rank_that_has_logs_to_close_tells(seconds: float, teller: int, machine: Machine) -> None:
    """Nobody ends it meanwhile, unless it takes too long: then another tells in its place, and the job ends."""
    closes = f"{MEETS}; {FAIL.format(seconds)}"
    for work in (closes, FAIL.format(2.0), FAIL.format(2.1)):
        machine.start(command(work, before=TELL, limit=1000))
    assert told(machine) == [str(rank == teller) for rank in range(3)]


def test_another_tells_where_the_rank_that_closes_its_logs_is_killed(machine: Machine) -> None:
    closes = f"{MEETS}; time.sleep(1.5); os.kill(os.getpid(), signal.SIGKILL)"
    for work in (closes, FAIL.format(2.0), FAIL.format(2.1)):
        machine.start(command(work, before=TELL.replace("(2)", "(1000)"), limit=1000))
    assert told(machine)[1:] == ["True", "False"]


def test_no_stopped_rank_is_left_behind_by_its_launcher() -> None:
    job = Job(command("wait()", limit=1000))
    job.processes[0].suspend()
    time.sleep(0.5)  # it is looked for five times a second
    job.launcher.kill()
    assert job.end() == -signal.SIGKILL
    assert not job.ranks.ended_launcher
