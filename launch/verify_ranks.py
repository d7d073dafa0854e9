"""The processes of `agenttune verify`, forked from this one, which imports once what all of them need.

Run by its path while the settings are checked elsewhere. What to compare comes as one line of JSON on standard input;
where that ends without one, so does this process. On standard output goes a line of JSON for each pass that a process
has made, whose answer lies in a file, and one for a process that failed, which ends all.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

CHANNEL = os.dup(1)
os.dup2(2, 1)  # whatever a library prints, at its import already, goes to stderr
sys.path[0] = str(Path(__file__).resolve().parents[1])  # not this folder

import torch  # noqa: E402

from launch.ancestors import die_with  # noqa: E402
from trainer.verify.job import Answer, Job, Who  # noqa: E402
from trainer.verify.rank import run_peer, run_rank  # noqa: E402
from trainer.verify.small_model import write_weights  # noqa: E402

_GRACE_S = 0.5
"""Within which the process that failed first is found among those that failed because of it."""
_SEED = 1


@dataclass(frozen=True)
class Ended:
    """A process that ended otherwise than it should."""

    who: Who
    rank: int
    fault: str
    at: float
    """When, by time.monotonic(); -inf where it was killed, which nobody else's end causes."""


def main() -> None:
    torch.set_num_threads(1)
    line = sys.stdin.readline()
    if not line:
        sys.exit(1)
    told = json.loads(line)
    job, parent = Job.from_json(json.dumps(told["job"])), os.getppid()
    # In a process of its own: this one is to be forked from, and so does nothing.
    _, status = os.waitpid(_fork(job, "serial", 0, 0, 1, weights=True), 0)
    if status:
        _failed(_ended(job, "serial", 0, status))
    running: dict[int, tuple[Who, int]] = {}
    for who, port in told["ports"].items():
        for rank in range(job.processes(who)):
            running[_fork(job, who, rank, port, job.processes(who))] = who, rank
    failed = _wait(job, running, parent)
    if failed:
        _failed(min(failed, key=lambda ended: ended.at))


def _failed(ended: Ended) -> NoReturn:
    _say({"failed": {"who": ended.who, "rank": ended.rank, "fault": ended.fault}})
    sys.exit(1)


def _wait(job: Job, running: dict[int, tuple[Who, int]], parent: int) -> list[Ended]:
    """Those that failed; none is left then."""
    failed: list[Ended] = []
    deadline = float("inf")
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid:
            who, rank = running.pop(pid)
            if status:
                failed.append(_ended(job, who, rank, status))
                deadline = min(deadline, time.monotonic() + _GRACE_S)
        elif os.getppid() != parent:
            _kill(running)
            shutil.rmtree(job.folder, ignore_errors=True)  # whose owner is no more
            os._exit(1)
        elif time.monotonic() > deadline:
            _kill(running)
            deadline = float("inf")
            while running:
                running.pop(os.waitpid(-1, 0)[0], None)
        else:
            time.sleep(0.01)
    return failed


def _kill(running: dict[int, tuple[Who, int]]) -> None:
    for pid in running:
        os.kill(pid, signal.SIGKILL)


def _ended(job: Job, who: Who, rank: int, status: int) -> Ended:
    if os.WIFSIGNALED(status):
        return Ended(who, rank, f"was killed by signal {os.WTERMSIG(status)}", float("-inf"))
    try:
        return Ended(who, rank, **json.loads(_fault_file(job, who, rank).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return Ended(who, rank, "left without a word", time.monotonic())


def _fork(job: Job, who: Who, rank: int, port: int, processes: int, *, weights: bool = False) -> int:
    """A process that does its part of the job; its id."""
    above = [os.getpid(), os.getppid()]
    pid = os.fork()
    if pid:
        return pid
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()}, MASTER_ADDR="127.0.0.1")
    try:
        die_with(above)
        if weights:
            write_weights(job.model, _SEED)
        elif who == "peer":
            run_peer(job, partial(_tell, job, who, rank))
        else:
            run_rank(job, who, partial(_tell, job, who, rank))
    except Exception as error:
        _leave(job, who, rank, error)
    os._exit(0)


def _leave(job: Job, who: Who, rank: int, error: Exception) -> NoReturn:
    at, text = time.monotonic(), " ".join(str(error).split())
    fault = f"{type(error).__name__}: {text}"
    _fault_file(job, who, rank).write_text(json.dumps({"fault": fault, "at": at}), encoding="utf-8")
    os._exit(1)


def _fault_file(job: Job, who: Who, rank: int) -> Path:
    return Path(job.folder) / f"{who}-{rank}.fault.json"


def _tell(job: Job, who: Who, rank: int, what: str, answer: Answer) -> None:
    file = Path(job.folder) / f"{who}-{what}-{rank}.json"
    file.write_text(json.dumps(answer), encoding="utf-8")
    _say({"who": who, "what": what, "rank": rank, "file": str(file)})


def _say(message: dict[str, Any]) -> None:
    """In one write: lines of several processes do not mix in a pipe where they are short (4096 bytes, pipe(7))."""
    os.write(CHANNEL, (json.dumps(message) + "\n").encode())


if __name__ == "__main__":
    main()
