"""What becomes of signals in the process of DeepSpeed's launcher."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import os, signal, subprocess, sys, types
from launch.deepspeed_launcher import _leave_saving_to_ranks
launch, number = types.ModuleType("launch"), int(sys.argv[1])
_leave_saving_to_ranks(launch)
launch.signal.signal(launch.signal.SIGTERM, lambda *_: os._exit(5))  # DeepSpeed's, which ends the ranks
rank = subprocess.Popen([sys.executable, "-c", sys.argv[2]], stdout=subprocess.PIPE, text=True)
rank.stdout.readline()
os.kill(os.getpid(), number)
print(rank.wait(), flush=True)
os.kill(os.getpid(), number)
"""
RANK = """
import signal, sys, time
for number in (signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, lambda *_: sys.exit(75))
print("ready", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 5), (signal.SIGUSR1, 0)])
def test_a_wish_to_stop_is_the_ranks_to_answer(number: int, code: int) -> None:
    """They save, for longer than DeepSpeed would wait. Without ranks it is its own to answer, where it listens."""
    command = [sys.executable, "-c", SCRIPT, str(int(number)), RANK]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.returncode) == ("75\n", code), done.stderr
