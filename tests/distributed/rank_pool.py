"""Ranks for tests: real processes, started as they are needed and used again by the next test."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

WORKER = Path(__file__).with_name("rank_worker.py")


class RankError(AssertionError):
    """A rank's task raised; `kind` and `message` are those of the first rank that did."""

    def __init__(self, rank: int, answer: dict[str, str]) -> None:
        super().__init__(f"rank {rank}: {answer['traceback']}")
        self.kind, self.message = answer["error"], answer["message"]


class RankPool:
    def __init__(self) -> None:
        self._ranks: list[subprocess.Popen[str]] = []

    def run(self, name: str, world_size: int, *, limit_s: float = 240, **arguments: Any) -> list[Any]:
        """Run `rank_tasks.NAME(**arguments)` on ranks 0 to world_size - 1; their answers in order."""
        while len(self._ranks) < world_size:
            self._ranks.append(_start())
        port = _free_port()
        for rank, process in enumerate(self._ranks[:world_size]):
            environment = {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(world_size),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
            }
            task = {"name": name, "arguments": arguments, "environment": environment}
            assert process.stdin
            process.stdin.write(json.dumps(task) + "\n")
            process.stdin.flush()
        answers: list[dict[str, Any] | None] = [None] * world_size
        threads = [
            threading.Thread(target=_read, args=(self._ranks[r], answers, r)) for r in range(world_size)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(limit_s)
        if any(answer is None for answer in answers):
            self.close()
            silent = [rank for rank, answer in enumerate(answers) if answer is None]
            raise AssertionError(f"ranks {silent} gave no answer to {name} in {limit_s} s")
        done = [answer for answer in answers if answer is not None]
        for rank, answer in enumerate(done):
            if "error" in answer:
                raise RankError(rank, answer)
        return [answer["value"] for answer in done]

    def close(self) -> None:
        for process in self._ranks:
            process.kill()
            process.wait()
        self._ranks = []


def _start() -> subprocess.Popen[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "WANDB_MODE": "offline"}
    return subprocess.Popen(
        [sys.executable, str(WORKER)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )


def _read(process: subprocess.Popen[str], answers: list[dict[str, Any] | None], rank: int) -> None:
    assert process.stdout
    line = process.stdout.readline()
    answers[rank] = json.loads(line) if line else None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
