"""Ends a job that hangs, and tells where each of its ranks stands.

Every rank has a thread that looks for signs of progress on this machine. Once none came for `run.hang_seconds`, the
lowest rank whose threads still run asks the others for their stacks, tells which is to blame (it is stopped, it does
not answer, a call in it holds the GIL, or it stands elsewhere than in a collective), kills them and ends: whatever
launcher started them sees a failed rank. Where no such thread runs on a machine, as when its only rank holds the GIL, a
timer in C prints the rank's stack and ends it.

A start is watched too, from the moment that the settings are read. Until the first step is over the limit is at least
START_S, since much is done but once then.
"""

from __future__ import annotations

import faulthandler
import os
import threading
import time
from typing import Self

import psutil

from trainer.board import Board, Member, job_of, members
from trainer.hang import CLAIM_S, answer, be_askable, end_job, is_awake, is_claimed

START_S = 1800.0
_ALIKE_S = 0.3
"""Seconds by which ranks meet an error that is the same for all."""
_TOLD_S = 3.0
"""Seconds that a launcher has to end those who do not tell: the first to end is the one that does."""
_TICK_S = 0.1
_LAST_RESORT_S = 1.8
"""Seconds that the timer in C leaves the threads."""

_running: Watchdog | None = None


def beat(step: int | None = None) -> None:
    """A sign of progress of this rank, with its number if it is an optimizer step. Does nothing where none is awaited.

    From a thread beside the training only where it comes to an end while that hangs, as one that writes a checkpoint.
    """
    running = _running
    if running:
        running.beat(step)


def begins(step: int) -> None:
    """This rank has the data of a step. Does nothing where no progress is awaited."""
    running = _running
    if running:
        running.begins(step)


def meets_alike() -> None:
    """This rank will end with an error that all ranks meet. Does nothing where no progress is awaited."""
    running = _running
    if running:
        running.meets_alike()


class Watchdog:
    """Around the work of one rank. How it ended is seen on the rank's board."""

    def __init__(self, rank: int) -> None:
        self.limit_s = START_S
        """Seconds without progress after which the job hangs, once a step was taken."""
        self.code = 0
        """The exit code of work that ends without an error."""
        self.rank = rank
        self.board = Board.new()
        """What the other processes of this machine see of it."""
        self._others: list[Member] = []
        """Of this machine, once there is an error that they meet too."""
        self._peers: list[Member] = []
        """Of this machine, once all have begun: their boards outlive them."""
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        global _running
        _running = self
        be_askable(self.board)
        self.beat()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        global _running
        _running = None
        page = self.board.page
        page.failed = time.monotonic() if error else 0.0
        self._left.set()
        self._thread.join()
        page.awake, page.code = 0.0, getattr(error, "exit_code", 1) if error else self.code

    def meets_alike(self) -> None:
        """An error that all ranks meet: this one will tell of it, though it may have logs to close before."""
        if not self._others:  # kept: their boards outlive them
            self._others = [member for member in self._machine()[1:] if member.board]
        self.board.page.alike = True

    def tells(self, patience_s: float = 10.0) -> bool:
        """After an error that all ranks meet alike: whether this one tells of it. One of each machine does.

        It is the lowest, or another in its place where that has ended or does not come to it in `patience_s` seconds.
        """
        self.meets_alike()
        time.sleep(_ALIKE_S)
        patient_until = time.monotonic() + patience_s
        while not self._is_told():
            patient = time.monotonic() < patient_until
            if not any(self._will_tell(member, patient) for member in self._others):
                self.board.page.told = True
                return True
            time.sleep(_TICK_S)
        time.sleep(_TOLD_S)
        return False

    def is_alone(self, patience_s: float = 1.0) -> bool:
        """After an error that all ranks should meet: another of this machine gets data which this one has not.

        It may come to that step a little later, which is waited for: a job is to end within two seconds.
        """
        begun, patient_until = self.board.page.begun, time.monotonic() + patience_s
        while True:
            pages = [(member.board.page, member) for member in self._others if member.board]
            if any(page.begun > begun for page, _ in pages):
                return True
            if time.monotonic() > patient_until or not any(not page.alike and m.runs for page, m in pages):
                return False
            time.sleep(_TICK_S)

    def failed_before(self) -> list[int] | None:
        """After an error: None where no other rank of this machine has ended or met one before, of which this may be
        what follows. Else those that have ended, unless one that met its error before this rank tells of them."""
        others = self._peers or self._machine()[1:]
        if any(0 < member.board.page.failed < self.board.page.failed for member in others if member.board):
            return []
        here = {self.rank, *(member.rank for member in others if member.runs)}
        return [rank for rank in _expected() if rank not in here] or None

    def _is_told(self) -> bool:
        return any(member.board.page.told for member in self._others if member.board)

    def _will_tell(self, member: Member, patient: bool) -> bool:
        """Whether it comes before this rank: it is at it, or closes its logs and is still waited for."""
        if not member.board or member.rank > self.rank or not member.board.page.alike:
            return False
        return (patient or member.board.page.code >= 0) and member.runs

    def begins(self, step: int) -> None:
        self.board.page.begun = step
        if not self._peers:
            self._peers = self._machine()[1:]

    def beat(self, step: int | None = None) -> None:
        page = self.board.page
        page.beat = time.monotonic()
        page.limit = self.limit_s if page.step or step else max(self.limit_s, START_S)
        if step:
            page.step = step

    def _watch(self) -> None:
        try:
            self._watch_until_left()
        finally:
            faulthandler.cancel_dump_traceback_later()

    def _watch_until_left(self) -> None:
        timer, quiet_until, answered = 0.0, 0.0, 0.0
        while not self._left.wait(_TICK_S):
            now = time.monotonic()
            self.board.page.awake = now
            due = self.board.due
            if max(due, now) != timer:
                timer = max(due, now)
                faulthandler.dump_traceback_later(timer - now + _LAST_RESORT_S, exit=True)
            if self.board.page.claimed != answered:
                answered = self.board.page.claimed
                answer(self.board)
            if now < max(due, quiet_until) or is_claimed(self.board):
                continue
            ranks = self._machine()
            # One rank may wait long for another, as when that writes a checkpoint: no rank must have gone on.
            quiet_until = max(member.board.due for member in ranks if member.board)
            before_us = (member for member in ranks if member.rank < self.rank)
            if quiet_until <= now and not any(is_awake(member) for member in before_us):
                faulthandler.dump_traceback_later(CLAIM_S, exit=True)  # it reads files, which may hang too
                end_job(ranks, _expected())
                os._exit(1)

    def _machine(self) -> list[Member]:
        """The ranks of this job on this machine, this one first."""
        me = Member(self.rank, psutil.Process(), self.board)
        others = members(os.getppid(), job_of(dict(os.environ)))
        return [me, *(member for member in others if member.process.pid != me.process.pid)]


def _expected() -> range:
    """The ranks that the launcher has started on this machine, as far as it tells."""
    ours = os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("LOCAL_SIZE")
    first = int(os.environ.get("RANK", 0)) - int(os.environ.get("LOCAL_RANK", 0))
    return range(first, first + int(ours)) if ours else range(0)


def _forget() -> None:
    """In a fork, whose parent's progress is not its own."""
    global _running
    _running = None


os.register_at_fork(after_in_child=_forget)
