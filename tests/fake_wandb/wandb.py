"""In place of wandb where a test's PYTHONPATH begins with this folder: notes what it is told in the file FAKE_NOTES.

FAKE_INIT, FAKE_LOG, FAKE_FINISH: `hang`, `raise` or `die` when it comes there. FAKE_SERVICE: start a process of its own
as wandb does, which never ends by itself.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from typing import Any


class Settings:
    def __init__(self, **values: Any) -> None:
        pass


class Summary:
    def update(self, values: Mapping[str, Any]) -> None:
        _note(summary=dict(values))


class Run:
    def __init__(self) -> None:
        self.summary = Summary()

    def log(self, values: Mapping[str, Any], step: int) -> None:
        _meet("LOG")
        _note(step=step, **values)

    def finish(self) -> None:
        _meet("FINISH")
        _note(finished=True)


def login(prompt: bool) -> bool:
    return bool(os.environ.get("FAKE_KEY"))


def init(**values: Any) -> Run:
    if os.environ.get("FAKE_SERVICE"):
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
    _meet("INIT")
    _note(init={key: values[key] for key in ("id", "mode", "project", "resume", "config")})
    return Run()


def _note(**values: Any) -> None:
    with open(os.environ["FAKE_NOTES"], "a", encoding="utf-8") as file:
        file.write(json.dumps(values) + "\n")


def _meet(where: str) -> None:
    match os.environ.get(f"FAKE_{where}", ""):
        case "hang":
            _note(hangs=where)
            threading.Event().wait()
        case "raise":
            raise OSError("no route to host")
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case _:
            pass
