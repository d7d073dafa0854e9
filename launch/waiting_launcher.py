"""DeepSpeed's launcher started before there is anything to launch. Little is imported here, so that it is soon."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from configs.errors import REQUEUE
from launch.environment import library_environment
from trainer.data.notices import LAUNCHER_VARIABLE

LAUNCHER = Path(__file__).with_name("deepspeed_launcher.py")
STOPS = (signal.SIGTERM, signal.SIGUSR1)
TOO_EARLY = "agenttune: stopped before the first step, nothing to save; start it again"


@contextlib.contextmanager
def waiting_launcher(quietly: bool = False) -> Iterator[subprocess.Popen[bytes]]:
    """DeepSpeed's launcher, which imports torch while the settings are checked, and waits for `tell`.

    Not its front end `deepspeed`, which ends with 0 where this launcher was killed by a signal, and which takes
    the first devices whatever CUDA_VISIBLE_DEVICES says. Until somebody else listens to the signals of STOPS they end
    this process with 75, as there is nothing to save, which is told unless `quietly`.
    """
    for number in STOPS:
        signal.signal(number, _stop if not quietly else _stop_quietly)
    environment = library_environment() | os.environ | {LAUNCHER_VARIABLE: str(os.getpid())}
    # A session of its own: what is sent to this process's group (Ctrl-C, `timeout`, a batch system) comes here
    # alone, and is handed on as it should be.
    process: subprocess.Popen[bytes] | None = None
    try:
        process = subprocess.Popen(
            [sys.executable, str(LAUNCHER)], env=environment, stdin=subprocess.PIPE, start_new_session=True
        )
        yield process
    finally:
        if process:
            process.kill()  # unless it ended by itself; it has no ranks where this one did not wait for it
            process.wait()


def tell(launcher: subprocess.Popen[bytes], arguments: Sequence[str]) -> None:
    """Let it start ranks."""
    assert launcher.stdin is not None
    with contextlib.suppress(BrokenPipeError), launcher.stdin:  # where it died its exit code says so
        launcher.stdin.write(json.dumps(arguments).encode())


def hear_no_more() -> None:
    """The exit code is settled: another signal must not change it. Python gives up its handlers when it ends, and the
    system's own would end the process by the signal."""
    for number in (*STOPS, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def _stop(number: int, frame: object) -> NoReturn:
    print(TOO_EARLY, file=sys.stderr)
    _stop_quietly(number, frame)


def _stop_quietly(number: int, frame: object) -> NoReturn:
    hear_no_more()
    raise SystemExit(REQUEUE)
