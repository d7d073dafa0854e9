"""Ranks for tests: real processes with real process groups, forked for each task from one that has imported all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from launch.environment import free_port

WORKER = Path(__file__).with_name("rank_worker.py")


class RankError(AssertionError):
    """A rank's task raised; `rank`, `kind` and `message` are those of the first that did."""

    def __init__(self, outcome: dict[str, Any]) -> None:
        super().__init__(f"rank {outcome['rank']}: {outcome['traceback']}")
        self.rank, self.kind, self.message = outcome["rank"], outcome["error"], outcome["message"]


class RankPool:
    def __init__(self) -> None:
        self._worker: subprocess.Popen[str] | None = None

    def run(self, name: str, world_size: int, *, limit_s: float = 240, **arguments: Any) -> list[Any]:
        """Run the task `NAME(**arguments)` on ranks 0 to world_size - 1; their answers in order.

        name: of a function of rank_tasks.py, or with its module before it, `memory_tasks.step_bytes`.

        Raises RankError where a rank raised or gave no answer in `limit_s` seconds.
        """
        outcomes = self.outcomes(name, world_size, limit_s=limit_s, **arguments)
        for outcome in outcomes:
            if "error" in outcome:
                raise RankError(outcome)
        return [outcome["value"] for outcome in sorted(outcomes, key=lambda outcome: outcome["rank"])]

    def outcomes(
        self, name: str, world_size: int, *, limit_s: float = 240, **arguments: Any
    ) -> list[dict[str, Any]]:
        """As `run`, but errors are returned too, as `rank_worker.run_ranks` tells them, in the order of their coming.

        A rank that was killed, or that left without an answer, is one of them.
        """
        if self._worker is None or self._worker.poll() is not None:
            self._worker = _start()
        assert self._worker.stdin
        assert self._worker.stdout
        task = {"name": name, "arguments": arguments, "world_size": world_size, "limit_s": limit_s}
        self._worker.stdin.write(json.dumps(task | {"port": free_port()}) + "\n")
        self._worker.stdin.flush()
        line = self._worker.stdout.readline()
        assert line, f"the process that starts ranks ended during {name}"
        return json.loads(line)

    def close(self) -> None:
        if self._worker is not None:
            self._worker.kill()
            self._worker.wait()
            self._worker = None


def _start() -> subprocess.Popen[str]:
    defaults = {
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
        "TOKENIZERS_PARALLELISM": "false",
        "DS_ACCELERATOR": "cpu",
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONWARNINGS": "ignore",
    }
    return subprocess.Popen(
        [sys.executable, str(WORKER)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | defaults,
    )
