"""The processes of `agenttune verify`, seen from the command: started, listened to, ended."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from launch.environment import free_port
from trainer.verify.job import Job, Who

_SILENCE_S = 360.0
"""More than the time that ranks give each other in a collective."""
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "GLOO_SOCKET_IFNAME": "lo",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONWARNINGS": "ignore",
    "DS_ACCELERATOR": "cpu",
    "CUDA_VISIBLE_DEVICES": "",  # where there are GPUs others may be at work on them
    # Of glibc: pages given back with each large tensor and taken anew cost a tenth of the time.
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 31),
}
_NOT_KEPT = ("RANK", "WORLD_SIZE", "TORCHINDUCTOR_CACHE_DIR")


@dataclass
class Processes:
    """The one that forks all others, which imports what they need from the start on. None outlives this."""

    folder: str
    """In place of the system's temporary one: libraries leave things there."""
    _process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        kept = {name: value for name, value in os.environ.items() if name not in _NOT_KEPT}
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("verify_ranks.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=kept | _ENVIRONMENT | {"TMPDIR": self.folder},
            start_new_session=True,  # a group of its own, which is ended as one
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def start(self, job: Job) -> None:
        """Have all of the job's processes forked."""
        whos: tuple[Who, ...] = ("serial", "layout", "peer")
        told = json.dumps({"job": asdict(job), "ports": {who: free_port() for who in whos}}) + "\n"
        assert self._process
        assert self._process.stdin
        with (
            contextlib.suppress(BrokenPipeError),
            self._process.stdin as out,
        ):  # where it died its silence says so
            out.write(told.encode())

    def messages(self) -> Iterator[dict[str, Any]]:
        """{"who", "what", "rank", "file"} of each pass as it ends, until all have made theirs.

        Raises RuntimeError where a process failed, naming it, or where none says anything for long.
        """
        assert self._process
        assert self._process.stdout
        out, held = self._process.stdout.fileno(), b""
        while True:
            if not select.select([out], [], [], _SILENCE_S)[0]:
                raise RuntimeError(f"no process has said anything for {_SILENCE_S:.0f} s; all were ended")
            got = os.read(out, 1 << 16)
            if not got:
                return
            *lines, held = (held + got).split(b"\n")
            for line in lines:
                message = json.loads(line)
                if "failed" in message:
                    raise RuntimeError(_failure(**message["failed"]))
                yield message


def _failure(who: Who, rank: int, fault: str) -> str:
    named = {"serial": "the one process", "peer": "transformers' process"}
    return f"{named.get(who, f'rank {rank} of the layout')} failed, and all were ended: {fault}"
