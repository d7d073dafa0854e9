"""Sides of a comparison, each in processes of its own, that take a step when it is their turn.

All are there at the same time and step one after the other, so that what slows the machine down slows both sides. A
process says READY, and for each line that it hears takes a step and answers with its seconds, loss, most memory and a
checksum of the rows that it trained on.
"""

from __future__ import annotations

import json
import math
import os
import resource
import select
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

WAIT = 300
"""Seconds for a start, or for a step."""


class Step(NamedTuple):
    seconds: float
    loss: float
    memory: int
    """Bytes at their most since the start: a process's resident ones, or what torch took of a GPU."""
    rows: int
    """A checksum of tokens and labels, in their order."""


class Turn:
    """A process's own end. Before each step it waits in `wait`, after it calls `taken`."""

    def __init__(self, told: int) -> None:
        self._answers = os.fdopen(told, "w", buffering=1)

    def wait(self) -> None:
        print("READY", file=self._answers)
        if not sys.stdin.readline():
            os._exit(0)

    def taken(self, seconds: float, loss: float, rows: int) -> None:
        import torch

        if torch.cuda.is_available():
            memory = torch.cuda.max_memory_allocated()
        else:
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps(Step(seconds, loss, memory, rows)), file=self._answers)


class Side:
    """`command` in so many processes, which form a job of ranks where `ranks`; it is given the number of a pipe.

    `settings`: of its environment.
    """

    def __init__(
        self, command: Sequence[str], processes: int, threads: int, *, ranks: bool, **settings: str
    ) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self._processes: list[subprocess.Popen[str]] = []
        self._answers: list[Any] = []
        for rank in range(processes):
            answers, told = os.pipe()
            environment = {"OMP_NUM_THREADS": str(threads)} | settings
            if ranks:
                environment |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
                environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            self._processes.append(
                subprocess.Popen(
                    [sys.executable, *command, str(told)],
                    stdin=subprocess.PIPE,
                    text=True,
                    pass_fds=[told],
                    env=os.environ | environment,
                )
            )
            os.close(told)
            # Unbuffered: what lies in a buffer, `select` does not see.
            self._answers.append(os.fdopen(answers, "rb", buffering=0))

    def ready(self) -> None:
        """Wait until it is. Raises RuntimeError where it ended or says nothing for WAIT seconds."""
        for answers in self._answers:
            if self._line(answers) != b"READY\n":
                raise RuntimeError("a side of the comparison ended; its message is above")

    @staticmethod
    def _line(answers: Any) -> bytes:
        if not select.select([answers], [], [], WAIT)[0]:
            raise RuntimeError(f"a side of the comparison has said nothing for {WAIT} s")
        return answers.readline()

    def step(self) -> Step:
        """Of the slowest process, all memory together."""
        for process in self._processes:
            assert process.stdin
            print(file=process.stdin, flush=True)
        told = [Step(*json.loads(self._line(answers))) for answers in self._answers]
        self.ready()
        memory = sum(step.memory for step in told)
        return Step(max(step.seconds for step in told), told[0].loss, memory, told[0].rows)

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()


def compare(
    ours: Side, theirs: Side, pairs: int, warm: int = 1, apart: float = 1e-4, until: float = math.inf
) -> dict[str, Any]:
    """Steps of both in turn: medians, ratios of the pairs, the most memory, and how far the losses are apart.

    Raises ValueError where they are further than `apart`, relatively, or rows are not the same: then the two do not
    compute the same. Of the pairs at least three are taken, the others until `until`, of `time.monotonic`.
    """
    taken: list[tuple[Step, Step]] = []
    while len(taken) < warm + min(3, pairs) or (len(taken) < warm + pairs and time.monotonic() < until):
        taken.append((ours.step(), theirs.step()))
    for step, (mine, other) in enumerate(taken, start=1):
        if mine.rows != other.rows:
            raise ValueError(f"step {step}: the two trained on different rows")
        if not abs(mine.loss - other.loss) <= apart * abs(other.loss):  # nor where one is no number
            raise ValueError(
                f"step {step}: losses of {mine.loss} and {other.loss}, further apart than {apart:g}"
            )
    ratios = sorted(mine.seconds / other.seconds for mine, other in taken[warm:])
    memory = taken[-1][0].memory, taken[-1][1].memory
    return {
        "pairs": len(ratios),
        "our_seconds": round(statistics.median(mine.seconds for mine, _ in taken[warm:]), 4),
        "their_seconds": round(statistics.median(other.seconds for _, other in taken[warm:]), 4),
        "ratio_median": round(statistics.median(ratios), 3),
        "ratio_min": round(ratios[0], 3),
        "ratio_max": round(ratios[-1], 3),
        "our_peak_bytes": memory[0],
        "their_peak_bytes": memory[1],
        "memory_ratio": round(memory[0] / memory[1], 3),
        "largest_difference_of_loss": max(abs(mine.loss - other.loss) for mine, other in taken),
    }


def side_command(side: str, config: Path, steps: int) -> list[str]:
    return [str(Path(__file__).with_name("sides.py")), side, str(config), str(steps)]
