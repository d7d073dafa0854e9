"""Ranks for one task after another: imports everything once, then forks fresh ranks for each task.

Importing torch, deepspeed and megatron-core takes seconds; a fork takes milliseconds, shares their memory and
leaves nothing behind for the next task. Fork is safe here because no thread runs before a task does.

A task comes as a JSON line on stdin, {"name", "arguments", "world_size", "port", "limit_s"}, and is answered by a JSON
line on stdout: one outcome per rank, in the order in which they ended.
"""

from __future__ import annotations

import faulthandler
import gc
import json
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import IO, Any

ANSWERS = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # whatever a library prints, at its import already, goes to stderr

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "faults"), str(HERE.parents[1])]
COMMON = "rank_tasks"
import_module(COMMON)

GRACE_S = 10.0
"""Seconds the others have to notice that a rank failed."""


def main() -> None:
    gc.freeze()  # keeps the collector from touching, and so copying, what the ranks share
    for line in sys.stdin:
        print(json.dumps(run_ranks(json.loads(line))), file=ANSWERS, flush=True)


def run_ranks(task: dict[str, Any]) -> list[dict[str, Any]]:
    """Outcomes {"rank", "ended", "hung", "value" or "error", "message", "traceback"} as they came.

    ended: when the rank's process was gone, by time.monotonic(), which is one clock for all processes
    hung: it was killed here, because its time was up
    A rank that ended without an answer has the error "Silence".
    """
    module, _, name = task["name"].rpartition(".")
    function = getattr(import_module(module or COMMON), name)
    running: dict[int, tuple[int, IO[str]]] = {}
    for rank in range(task["world_size"]):
        answer = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115 (read after the rank's end)
        pid = os.fork()
        if pid == 0:
            run_rank(function, task, rank, answer)
        running[pid] = rank, answer
    parent, deadline = os.getppid(), time.monotonic() + task["limit_s"]
    outcomes: list[dict[str, Any]] = []
    hung = False
    while running:
        pid, _ = os.waitpid(-1, os.WNOHANG)
        if pid:
            rank, answer = running.pop(pid)
            answer.seek(0)
            outcome = json.loads(
                answer.read() or '{"error": "Silence", "message": "", "traceback": "no answer"}'
            )
            outcomes.append({"rank": rank, "ended": time.monotonic(), "hung": hung} | outcome)
            if "error" in outcome:
                deadline = min(deadline, time.monotonic() + GRACE_S)
        elif time.monotonic() > deadline or os.getppid() != parent:
            for number in (signal.SIGABRT, signal.SIGKILL):  # the first prints where each thread stands
                for pid in running:
                    os.kill(pid, number)
                time.sleep(0.5)
            deadline, hung = float("inf"), True
        else:
            time.sleep(0.01)
    return outcomes


def run_rank(function: Callable[..., Any], task: dict[str, Any], rank: int, answer: IO[str]) -> None:
    """In the fork: do the task, write the answer, and end at once."""
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(task["world_size"]),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(task["port"]),
    )
    faulthandler.enable()
    try:
        outcome = {"value": function(**task["arguments"])}
    except Exception as error:
        outcome = {"error": type(error).__name__, "message": str(error), "traceback": traceback.format_exc()}
    json.dump(outcome, answer)
    answer.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
