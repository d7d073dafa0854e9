"""What is said of a hang, and which signs of progress count."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from configs.errors import ConfigError
from trainer import watchdog
from trainer.board import Board
from trainer.hang import Stand, blame, parse, report
from trainer.watchdog import Watchdog, beat

ROOT = Path(__file__).parents[2]
COLLECTIVE = ('  File "/x/torch/distributed/c10d.py", line 2 in all_reduce', '  File "/a.py", line 1 in main')
OWN = ('  File "/trainer/data/prefetch.py", line 9 in __next__', '  File "/a.py", line 1 in main')
AT_HANDLE = ('  File "/x/layers.py", line 624 in backward', "    handle.wait()")
STARTED = (
    '  File "/x/torch/distributed/c10d.py", line 3 in gather',
    '  File "/x/threading.py", line 1 in _bootstrap',
)


@pytest.mark.parametrize(
    ("stands", "said"),
    [
        ([Stand(0, "", COLLECTIVE), Stand(1, "", OWN)], "rank 1 stands elsewhere than in a collective"),
        ([Stand(0, "", OWN), Stand(1, "", COLLECTIVE), Stand(2, "", OWN)], "ranks 0, 2 stand elsewhere than"),
        ([Stand(0, "", OWN), Stand(1, "is stopped")], "rank 1 is stopped"),
        ([Stand(0, "does not answer"), Stand(1, "is stopped")], "rank 0 does not answer, rank 1 is stopped"),
        ([Stand(0, "", COLLECTIVE), Stand(1, "", COLLECTIVE)], "no rank of this machine differs"),
        ([Stand(0, "", OWN)], "no rank of this machine differs"),
        ([Stand(0, "", OWN), Stand(1, "", AT_HANDLE)], "rank 0 stands elsewhere than in a collective"),
        # A checkpoint's thread waits for others' checkpoints, not for their steps; autograd's threads are the step's.
        ([Stand(0, "", OWN, (STARTED,)), Stand(1, "", COLLECTIVE)], "rank 0 stands elsewhere"),
        ([Stand(0, "", OWN, (COLLECTIVE,)), Stand(1, "", OWN)], "rank 1 stands elsewhere"),
    ],
)
def test_blame(stands: list[Stand], said: str) -> None:
    assert blame(stands).startswith(said)


def test_report_begins_with_what_happened() -> None:
    stands = [Stand(0, "", OWN, (STARTED,)), Stand(1, "is stopped")]
    assert report(stands, "rank 1 is stopped", 1800.4, 0).splitlines() == [
        "agenttune: no progress for 1800 s before the first step: rank 1 is stopped",
        "agenttune: rank 0 stands at (most recent call first):",
        *OWN,
        "  and in another thread:",
        *STARTED,
        "agenttune: rank 1 is stopped",
    ]


def test_what_faulthandler_writes_is_read(tmp_path: Path) -> None:
    (tmp_path / "c.py").write_text("\n\n\n    at_work(1)\n")
    written = (
        'Thread 0x00007f01 (most recent call first):\n  File "/b/trainer/watchdog.py", line 3 in _watch\n\n'
        "Thread 0x00007f02 (most recent call first):\n"
        f'  File "{tmp_path}/c.py", line 4 in g\n  File "/d.py", line 5 in h\n\n'
        'Current thread 0x00007f03 (most recent call first):\n  File "/a.py", line 1 in f\n'
    )
    main, others = parse(written, 0x7F03)
    assert main == ('  File "/a.py", line 1 in f',)
    assert others == (
        (f'  File "{tmp_path}/c.py", line 4 in g', "    at_work(1)", '  File "/d.py", line 5 in h'),
    )
    assert parse("", 1) == ((), ())


def test_a_start_has_more_time() -> None:
    board = watched(lambda: None)
    assert board.page.limit == watchdog.START_S
    board = watched(lambda: beat())
    assert board.page.limit == watchdog.START_S
    board = watched(lambda: beat(3))
    assert (board.page.limit, board.page.step) == (0.5, 3)
    board = watched(lambda: (beat(3), beat()))
    assert (board.page.limit, board.page.step) == (0.5, 3)


def test_how_work_ends_is_seen_on_the_board() -> None:
    assert watched(lambda: None).finished
    assert watched(lambda: None, code=75).finished
    for error, code in ((ConfigError("a"), 2), (OSError("b"), 1), (SystemExit(0), 1)):
        with pytest.raises(type(error)), Watchdog(0) as watch:
            raise error
        assert watch.board.page.code == code
        assert not watch.board.finished
    beat(1)  # nobody awaits it


def test_a_fork_makes_no_progress_for_its_parent() -> None:
    def work() -> None:
        if os.fork() == 0:
            beat(9)
            os._exit(0)
        os.wait()

    assert watched(work).page.step == 0


def watched(work: Callable[[], object], code: int = 0) -> Board:
    with Watchdog(0) as watch:
        watch.limit_s, watch.code = 0.5, code
        work()
    return watch.board


RANK = """
import subprocess, sys
import psutil
from trainer.hang import _wake_launcher
other = psutil.Process(int(sys.argv[1]))
subprocess.Popen(["sleep", "9"], stdout=-3, stderr=-3)  # as a tokenising worker, which the launcher would wait for
other.kill()
_wake_launcher([other])
"""
LAUNCHER = """
import os, signal, subprocess, sys, time
import psutil
def end(*_):
    print([each.name() for each in psutil.Process().children(recursive=True) if each.ppid() != os.getpid()], flush=True)
    sys.exit(5)
signal.signal(signal.SIGTERM, end)
child = "import subprocess; subprocess.Popen(['sleep', '9'], stdout=-3, stderr=-3); input()"
other = subprocess.Popen([sys.executable, "-c", child], stdin=subprocess.PIPE)
while not psutil.Process(other.pid).children():
    time.sleep(0.01)
rank = subprocess.Popen([sys.executable, "-c", sys.argv[1], str(other.pid)])
rank.wait()
time.sleep(1)
"""


@pytest.mark.parametrize("launcher", ["deepspeed.launcher.launch", "another"])
def test_deepspeeds_launcher_is_told_when_nothing_is_left(launcher: str) -> None:
    """And no other is."""
    command = [sys.executable, "-c", LAUNCHER, RANK, launcher]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)
    if launcher == "another":
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    else:
        assert (ended.returncode, ended.stdout, ended.stderr) == (5, "[]\n", "")
