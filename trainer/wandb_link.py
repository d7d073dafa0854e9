"""What a run tells wandb. No outage of wandb stops or slows it: another process talks to wandb, a thread to that."""

from __future__ import annotations

import json
import queue
import secrets
import string
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil

from configs.schema import WandbConfig

_LETTERS = string.ascii_lowercase + string.digits
_LOOK_S = 0.1


class WandbLink:
    """A run of wandb's. What cannot be told is told to nobody; metrics.jsonl has all of it."""

    def __init__(
        self, folder: Path, config: WandbConfig, settings: Mapping[str, Any], id: str | None
    ) -> None:
        """id: of the run to go on with, or None for a new one"""
        self.id = id or "".join(secrets.choice(_LETTERS) for _ in range(8))
        self._queue: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "trainer.wandb_sender"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
        )
        threading.Thread(target=self._send, daemon=True).start()
        told = {"mode": config.mode, "project": config.project, "name": config.name, "id": self.id}
        self._queue.put({"do": "init", "folder": str(folder), "config": dict(settings), **told})

    def log(self, values: Mapping[str, Any], step: int) -> None:
        self._queue.put({"do": "log", "values": dict(values), "step": step})

    def summary(self, values: Mapping[str, Any]) -> None:
        self._queue.put({"do": "summary", "values": dict(values)})

    def close(self, patience_s: float, beat: Callable[[], None] = lambda: None) -> bool:
        """Whether wandb has taken all of it in so many seconds. What has not come there by then is on the disk.

        beat: called while it is waited for
        """
        self._queue.put({"do": "finish"})
        deadline = time.monotonic() + patience_s
        while self._process.poll() is None and time.monotonic() < deadline:
            beat()
            time.sleep(_LOOK_S)
        code = self._process.poll()
        if code is None:
            self._end()
        return code == 0

    def _send(self) -> None:
        assert self._process.stdin
        try:
            while True:
                self._process.stdin.write(json.dumps(self._queue.get(), allow_nan=True) + "\n")
                self._process.stdin.flush()
        except (OSError, ValueError):  # it has ended, and said why
            return

    def _end(self) -> None:
        """With the service that it has started."""
        try:
            for process in (*psutil.Process(self._process.pid).children(recursive=True), self._process):
                process.kill()
        except psutil.Error:
            self._process.kill()
        self._process.wait()
