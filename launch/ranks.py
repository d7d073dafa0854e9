"""The rank processes under a launcher, seen from above it: who they are, which ended first, and that all end."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil

from trainer.board import Member, members
from trainer.hang import end_job, ended, is_claimed

ENTRY = Path(__file__).with_name("train.py")
_LOOK_S = 0.2
_GRACE_S = 0.8
"""Seconds that the others have to end by themselves after one has failed: what they say may be of use."""
_GONE_S = 2.0
"""Seconds that a process may take to end when it is killed."""
_LAST_RESORT_S = 0.4
"""Seconds that ranks have to end a hung job by themselves: none can where all are stopped."""


class Ranks:
    """Watches the `count` ranks of a launcher, and ends them and it when the first has failed.

    DeepSpeed's launcher looks at its ranks once a second, asks those that are left to end, and waits half a minute for
    them, which is too long where one is stopped. It tells no more of how they ended than their boards do.
    """

    def __init__(
        self,
        launcher: subprocess.Popen[bytes],
        count: int,
        on_failure: Callable[[int], None] = lambda rank: None,
    ) -> None:
        """on_failure: told the rank that is the first to end before its work did, as soon as that is known"""
        self._launcher = launcher
        self._count = count
        self._on_failure = on_failure
        self._known: dict[int, Member] = {}
        self._running: dict[int, int] = {}
        """Process descriptor -> rank."""
        self.first_failed: int | None = None
        """None too where the system cannot tell (no pidfd)."""
        self.ended_launcher = False
        """Its ranks were no more, so it was not waited for."""
        self._thread: threading.Thread | None = None
        if hasattr(os, "pidfd_open"):
            self._thread = threading.Thread(
                target=self._watch, args=(os.pidfd_open(launcher.pid),), daemon=True
            )
            self._thread.start()

    def alive(self) -> dict[int, psutil.Process]:
        """The launcher's processes that are ranks, by rank."""
        return {member.rank: member.process for member in members(self._launcher.pid)}

    @property
    def have_begun(self) -> bool:
        """Some have taken a step; before that a signal ends them."""
        return any(member.board.page.step for member in self._known.values() if member.board)

    @property
    def hang(self) -> str:
        """Why the job hung, where it did: which rank is to blame, and what is wrong with it."""
        said = (member.board.page.blame for member in self._known.values() if member.board)
        return next((blame.decode(errors="replace") for blame in said if blame), "")

    @property
    def alike(self) -> bool:
        """The first to fail met what all of them met, and one has told it."""
        board = None if self.first_failed is None else self._known[self.first_failed].board
        told = any(member.board.page.told for member in self._known.values() if member.board)
        return bool(told and board and board.page.alike)

    @property
    def said(self) -> str:
        """The error that is to be told of them: of the first to fail, or of the one that tells for all."""
        boards = [member.board for member in self._known.values() if member.board]
        first = [] if self.first_failed is None else [self._known[self.first_failed].board]
        for board in (*(board for board in boards if board.page.told), *first):
            if board and board.page.error:
                return board.page.error.decode(errors="replace")
        return ""

    @property
    def unheard(self) -> bool:
        """The first to fail ended before a step and without an error, as by a signal that it did not listen to yet."""
        if self.first_failed is None:
            return False
        board = self._known[self.first_failed].board
        return board is None or (board.page.code < 0 and not board.page.step)

    def settle(self, code: int) -> int:
        """The exit code of the job, whose launcher has ended with `code`. No rank is left after it, unless the system
        cannot end one."""
        if self._thread:
            self._thread.join()
        _kill(self._known.values())  # a rank ends with its launcher, but not one that is stopped
        deadline = time.monotonic() + _GONE_S
        while time.monotonic() < deadline and any(member.runs for member in self._known.values()):
            time.sleep(0.01)
        if self.first_failed is not None:
            board = self._known[self.first_failed].board
            return board.page.code if board and board.page.code > 0 else 1
        codes = [member.board.page.code for member in self._known.values() if member.board]
        return max(codes) if len(codes) == self._count and min(codes) >= 0 else code

    def _watch(self, launcher: int) -> None:
        """launcher: its process descriptor"""
        kill_at = float("inf")
        while self._running or len(self._known) < self._count:
            self._look()
            gone = ended([launcher, *self._running], _LOOK_S)
            now = time.monotonic()
            for descriptor in gone - {launcher}:
                member = self._known[self._running.pop(descriptor)]
                os.close(descriptor)
                if self.first_failed is None and not _is_finished(member):
                    self.first_failed = member.rank
                    self._on_failure(member.rank)
                    kill_at = now if member.board and member.board.page.told else now + _GRACE_S
            if launcher in gone:
                return
            left = [member for member in self._left() if not _is_finished(member)]
            due = [member.board.due for member in left if member.board]
            if due and max(due) + _LAST_RESORT_S < now and not self._is_claimed():
                end_job(left, ())
            if now >= kill_at or self.hang:
                _kill(left)
        if not ended([launcher], 0):
            self.ended_launcher = True
            self._launcher.kill()

    def _look(self) -> None:
        """For ranks that have started, and for their boards: they are read when the rank is no more."""
        if len(self._known) == self._count and all(member.board for member in self._known.values()):
            return
        for member in members(self._launcher.pid):
            with contextlib.suppress(ProcessLookupError):
                if member.rank not in self._known:
                    self._running[os.pidfd_open(member.process.pid)] = member.rank
                self._known[member.rank] = member

    def _left(self) -> list[Member]:
        return [self._known[rank] for rank in self._running.values()]

    def _is_claimed(self) -> bool:
        return any(is_claimed(member.board) for member in self._known.values() if member.board)


def _is_finished(member: Member) -> bool:
    return bool(member.board and member.board.finished)


def _kill(ranks: Iterable[Member]) -> None:
    for member in ranks:
        with contextlib.suppress(psutil.Error):
            member.process.kill()
