"""Two jobs never train in one folder, and no job that is gone keeps another out."""

from __future__ import annotations

import errno
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from configs.errors import ConfigError
from trainer import output_lock
from trainer.output_lock import lock_output

ROOT = Path(__file__).resolve().parents[2]
HOLD = """
import sys, time
from pathlib import Path
from trainer.output_lock import lock_output
lock_output(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


def holder(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_job_is_refused_until_the_first_is_gone_however_it_ends(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    first = holder(folder)
    who = re.escape(f"(process {first.pid} on {socket.gethostname()})")
    try:
        with pytest.raises(ConfigError, match=f"={folder}: another job trains there {who}; wait"):
            lock_output(folder, grace_s=0.2)
        begun = time.monotonic()
        first.send_signal(signal.SIGKILL)
        held = lock_output(folder)  # waits for one that is just going
        assert time.monotonic() - begun < 5
        assert held is not None
        os.close(held)
    finally:
        first.kill()
        first.communicate()


def test_a_file_system_without_locks_is_no_hindrance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    assert output_lock.fcntl
    monkeypatch.setattr(output_lock.fcntl, "flock", refuse)
    assert lock_output(tmp_path) is None


@pytest.mark.parametrize(("holder", "seconds"), [("this {}", 10), ("another {}", 120), ("", 10)])
def test_a_machine_that_was_lost_is_awaited_longer(
    holder: str, seconds: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server of network disks gives its lock up when its lease is over."""

    def refuse(*_: object) -> None:
        raise BlockingIOError

    assert output_lock.fcntl
    (tmp_path / "boot_id").write_text("this\n")
    monkeypatch.setattr(output_lock, "BOOT_ID", tmp_path / "boot_id")
    (tmp_path / output_lock.LOCK).write_text(holder.format(f"process 1 on {socket.gethostname()}"))
    monkeypatch.setattr(output_lock.fcntl, "flock", refuse)
    clock = iter(range(1000))
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    with pytest.raises(ConfigError, match="another job trains there"):
        lock_output(tmp_path)
    assert next(clock) == seconds + 2
