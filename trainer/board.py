"""What a rank shows the other processes of its machine: signs of life and of progress, and where it stands.

A file in memory without a name, found through /proc/PID/fd: nothing is left behind however a process ends, and whoever
has it open reads it after the rank's end. Linux only; elsewhere a rank's board is seen by nobody else.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import tempfile
import weakref
from dataclasses import dataclass
from pathlib import Path

import psutil

from configs.errors import REQUEUE

_NAME = "agenttune-board"
_SIZE = mmap.PAGESIZE
_BLAME = 500
_ERROR = 2000


class Page(ctypes.Structure):
    """Times are those of time.monotonic(), which all processes of a machine share."""

    awake: float
    """When Python code last ran in the rank, whatever its main thread is at."""
    beat: float
    """When it last went on; 0 before it watches."""
    limit: float
    """Seconds after `beat` in which it is to go on again."""
    step: int
    """Of the last optimizer step; 0 before the first."""
    begun: int
    """Of the step whose data it last got."""
    main_thread: int
    """Its main thread as faulthandler names it."""
    code: int
    """The exit code that it will end with, once it is past its work and watches no more; -1 before."""
    alike: bool
    """It failed in a way in which all ranks do."""
    told: bool
    """And is the one that tells of it."""
    failed: float
    """When it met an error that it ends with; 0 before."""
    error: bytes
    """What it is to be told of that one, in UTF-8."""
    claimed: float
    """When somebody set about ending the job, and wants to know where this rank stands."""
    blame: bytes
    """What was found then, in UTF-8."""
    _fields_ = [
        *(("awake", ctypes.c_double), ("beat", ctypes.c_double), ("limit", ctypes.c_double)),
        *(
            ("step", ctypes.c_int64),
            ("begun", ctypes.c_int64),
            ("main_thread", ctypes.c_uint64),
            ("code", ctypes.c_int),
        ),
        *(("alike", ctypes.c_bool), ("told", ctypes.c_bool)),
        *(("failed", ctypes.c_double), ("error", ctypes.c_char * _ERROR)),
        *(("claimed", ctypes.c_double), ("blame", ctypes.c_char * _BLAME)),
    ]


class Board:
    """One rank's page, and behind it what the rank writes of its threads."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.page = Page.from_buffer(mmap.mmap(fd, _SIZE))

    @classmethod
    def new(cls) -> Board:
        """This process's own, which stays open to the end of it."""
        if hasattr(os, "memfd_create"):
            fd = os.memfd_create(_NAME)
        else:
            fd, path = tempfile.mkstemp()
            os.unlink(path)
        os.ftruncate(fd, _SIZE)
        os.lseek(fd, 0, os.SEEK_END)
        board = cls(fd)
        board.page.code = -1
        return board

    @classmethod
    def of(cls, pid: int) -> Board | None:
        """That of another process, once it watches."""
        with contextlib.suppress(OSError, ValueError):  # it ended, or is about to make one
            for file in Path(f"/proc/{pid}/fd").iterdir():
                if os.readlink(file).startswith(f"/memfd:{_NAME}"):
                    board = cls(os.open(file, os.O_RDWR))
                    weakref.finalize(board, os.close, board.fd)
                    return board if board.page.beat else None
        return None

    @property
    def finished(self) -> bool:
        """All its work is done, or is to go on when it is started again."""
        return self.page.code in (0, REQUEUE)

    @property
    def due(self) -> float:
        """When the next sign of progress has to be there."""
        return self.page.beat + self.page.limit

    def blame(self, said: str) -> None:
        self.page.blame = said.encode()[: _BLAME - 1]

    def tell(self, error: str) -> None:
        """Leave it to the process that has started the rank to tell."""
        self.page.error = error.encode()[: _ERROR - 1]

    def written(self) -> str:
        """What the rank has written of its threads."""
        return os.pread(self.fd, 1 << 20, _SIZE).decode(errors="replace")


@dataclass(frozen=True)
class Member:
    """A rank of this machine."""

    rank: int
    process: psutil.Process
    board: Board | None
    """None before it watches."""

    @property
    def runs(self) -> bool:
        """Not where it has ended and nobody has asked how, which may take the system's first process seconds."""
        try:
            return self.process.is_running() and self.process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False


def members(launcher: int, job: str | None = None) -> list[Member]:
    """The ranks that a process has started and that have not ended, in order; of one job if it is given."""
    found: list[Member] = []
    with contextlib.suppress(psutil.Error):
        for process in psutil.Process(launcher).children():
            with contextlib.suppress(psutil.Error):
                environment = process.environ()
                if "RANK" in environment and job in (None, job_of(environment)):
                    found.append(Member(int(environment["RANK"]), process, Board.of(process.pid)))
    return sorted(found, key=lambda member: member.rank)


def job_of(environment: dict[str, str]) -> str:
    """Where the ranks of a job meet: a shell may have started two jobs of one rank each."""
    return f"{environment.get('MASTER_ADDR')}:{environment.get('MASTER_PORT')}"
