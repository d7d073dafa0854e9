"""A job that hangs: where each rank of this machine stands, which one is to blame, and its end."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import re
import select
import signal
import sys
import threading
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from linecache import getline

import psutil

from trainer.board import Board, Member

_ASK = signal.SIGUSR2
"""Has a rank write its stacks where its Python does not run: the handler is in C. No other is asked so, since reading
frames while they change may crash it."""
_ANSWER_S = 0.8
_AWAKE_S = 5.0
"""Far longer than a call should hold the GIL."""
_SAY_S = 1.0
_END_S = 0.3
"""Seconds that killed processes may take to end, before one goes on without them."""
CLAIM_S = 3.0
"""Seconds after which whoever set about ending the job has been hindered."""
_THREAD = re.compile(r"(?:Current t|T)hread 0x([0-9a-f]+)")
_FRAME = re.compile(r'  File "(.+)", line (\d+) in ')
_WAITS = (
    *("/torch/distributed/", "/deepspeed/comm/"),
    # Code that waits for a collective, or for what a device does, which is one as a rule.
    *(".wait()", ".item()", ".tolist()", ".cpu()", "synchronize("),
)
"""What stands in the frames of a thread that is in a collective, or in the line of code that it is at."""
_DEEPSPEED = "deepspeed.launcher.launch"
"""In the command line of DeepSpeed's launcher of one machine's ranks, as its front end starts it."""
_ALWAYS_THERE = ("/trainer/watchdog.py", "/trainer/hang.py", "/launch/ancestors.py", "/tqdm/_monitor.py")
"""Where threads stand that say nothing of a hang."""
NOBODY = "no rank of this machine differs from the others"
_STOPPED = (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP)


@dataclass(frozen=True)
class Stand:
    """One rank as it was found."""

    rank: int
    fault: str
    """What is wrong with it, as "is stopped"; empty where it answers and its threads run."""
    main: tuple[str, ...] = ()
    """Frames of the main thread as faulthandler writes them, the most recent call first and with its line of code."""
    others: tuple[tuple[str, ...], ...] = ()

    @property
    def waits(self) -> bool:
        """In a collective: the main thread, or one of autograd's. Those that Python has started are not the step's."""
        theirs = [frames for frames in self.others if "threading.py" not in frames[-1]]
        return any(sign in frame for frames in (self.main, *theirs) for frame in frames for sign in _WAITS)


def be_askable(board: Board) -> None:
    """From now on this process writes its stacks to its board when another asks for them, Python running or not."""
    board.page.main_thread = threading.main_thread().ident or 0
    faulthandler.register(_ASK, file=board.fd, all_threads=True)


def answer(board: Board) -> None:
    """Write the stacks of this process to its board. To be called once its page is claimed."""
    faulthandler.dump_traceback(board.fd, all_threads=True)


def is_awake(member: Member) -> bool:
    """Whether Python code runs in it."""
    page = member.board and member.board.page
    return bool(page and time.monotonic() - page.awake < min(_AWAKE_S, page.limit / 2))


def is_claimed(board: Board) -> bool:
    return time.monotonic() - board.page.claimed < CLAIM_S


def ended(processes: Iterable[int], seconds: float | None) -> set[int]:
    """Those of some process descriptors whose process has ended, as soon as one has, or `seconds` are over."""
    poll = select.poll()  # select() takes no descriptor from 1024 on, and a file of data is one or two
    for descriptor in processes:
        poll.register(descriptor, select.POLLIN)
    return {descriptor for descriptor, _ in poll.poll(None if seconds is None else seconds * 1000)}


def end_job(members: Sequence[Member], expected: Collection[int]) -> None:
    """Tell where the ranks of this machine stand and which is to blame, and kill them, this process excepted.

    expected: the ranks that should be here; what was found stays on the boards
    """
    boards = [member.board for member in members if member.board]
    for board in boards:
        board.page.claimed = time.monotonic()  # which asks those that are awake
    newest = max((board.page for board in boards), key=lambda page: page.beat)
    seconds = time.monotonic() - newest.beat
    stands = _stands(members, expected)
    said = blame(stands)
    _say(report(stands, said, seconds, newest.step))
    for board in boards:
        board.blame(said)
    for member in members:
        if member.process.pid != os.getpid():
            with contextlib.suppress(psutil.Error):
                member.process.kill()  # what is stopped would not hear SIGTERM
    _wake_launcher([member.process for member in members if member.process.pid != os.getpid()])


def blame(stands: Sequence[Stand]) -> str:
    """The ranks that keep the others waiting, as far as can be seen from this machine."""
    if faults := [f"rank {stand.rank} {stand.fault}" for stand in stands if stand.fault]:
        return ", ".join(faults)
    elsewhere = [str(stand.rank) for stand in stands if stand.main and not stand.waits]
    if 0 < len(elsewhere) < len(stands):
        verb = "ranks {} stand" if len(elsewhere) > 1 else "rank {} stands"
        return f"{verb.format(', '.join(elsewhere))} elsewhere than in a collective, where the others wait"
    return NOBODY


def report(stands: Sequence[Stand], said: str, seconds: float, step: int) -> str:
    """What is told of a hang: who is to blame in the first line, then where each rank stands."""
    since = f"after step {step}" if step else "before the first step"
    lines = [f"agenttune: no progress for {seconds:.0f} s {since}: {said}"]
    for stand in stands:
        if not stand.main and not stand.others:
            lines.append(
                f"agenttune: rank {stand.rank} {stand.fault or 'was too busy to tell where it stands'}"
            )
            continue
        fault = f" {stand.fault}; it" if stand.fault else ""
        lines += [f"agenttune: rank {stand.rank}{fault} stands at (most recent call first):", *stand.main]
        for frames in stand.others:
            lines += ["  and in another thread:", *frames]
    return "\n".join(lines) + "\n"


def parse(written: str, main_thread: int) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """The main thread's frames and the other threads', without our own, out of what faulthandler writes."""
    main: tuple[str, ...] = ()
    others: list[tuple[str, ...]] = []
    for block in written.split("\n\n"):
        head, *frames = block.strip("\n").split("\n")
        thread = _THREAD.match(head)
        if not thread or not frames:
            continue
        if place := _FRAME.match(frames[0]):
            frames[1:1] = [f"    {code}"] if (code := getline(place[1], int(place[2])).strip()) else []
        if int(thread[1], 16) == main_thread:
            main = tuple(frames)
        elif not any(place in frame for frame in frames for place in _ALWAYS_THERE):
            others.append(tuple(frames))
    return main, tuple(others)


def _stands(members: Sequence[Member], expected: Collection[int]) -> list[Stand]:
    stopped = {member.rank for member in members if _status(member) in _STOPPED}
    awake = {member.rank for member in members if is_awake(member)} - stopped
    _ask([member for member in members if member.rank not in stopped], awake)
    here = {member.rank for member in members}
    found = [Stand(rank, "has ended") for rank in expected if rank not in here]
    for member in members:
        main, others = _threads(member.board) if member.board else ((), ())
        if member.rank in awake:
            fault = ""
        elif member.rank in stopped:
            fault = "is stopped (by SIGSTOP or a debugger)"
        elif member.board is None:
            fault = f"has not begun its work ({_status(member)})"
        elif member.board.page.code >= 0:
            fault = "has finished or failed, but does not end"
        elif main or others:
            fault = "is in a call that holds the GIL"
        else:
            fault = f"does not answer ({_status(member)})"
        found.append(Stand(member.rank, fault, main, others))
    return sorted(found, key=lambda stand: stand.rank)


def _threads(board: Board) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    return parse(board.written(), board.page.main_thread)


def _status(member: Member) -> str:
    try:
        return member.process.status()
    except psutil.Error:
        return "ended"


def _ask(members: Sequence[Member], awake: Collection[int]) -> None:
    """Have them write their stacks; returns when all have, or some do not in time."""
    boards: list[Board] = []
    for member in members:
        if not member.board:
            continue
        boards.append(member.board)
        if member.process.pid == os.getpid():
            answer(member.board)
        elif member.rank not in awake:
            with contextlib.suppress(psutil.Error):
                member.process.send_signal(_ASK)
    deadline = time.monotonic() + _ANSWER_S
    before: list[int] = []
    while time.monotonic() < deadline:
        time.sleep(0.05)
        sizes = [len(board.written()) for board in boards]
        if all(sizes) and sizes == before:
            return
        before = sizes


def _wake_launcher(killed: Sequence[psutil.Process]) -> None:
    """DeepSpeed's looks at its ranks once a second only; SIGTERM has it end at once. Never raises.

    It then waits for whatever its ranks have started, and for a process that has lost its parent until the system's
    first process asks after it, which may take seconds: there is to be none.
    """
    with contextlib.suppress(Exception):
        launcher = psutil.Process(os.getppid())
        if _DEEPSPEED not in launcher.cmdline():
            return
        ours = psutil.Process().children()
        for child in ours:
            with contextlib.suppress(psutil.Error):
                child.kill()
        psutil.wait_procs(ours, timeout=_END_S)
        _await_end([process.pid for process in killed], _END_S)
        launcher.terminate()


def _await_end(pids: Sequence[int], seconds: float) -> None:
    """Until all their threads have ended: before that a zombie still has children. Linux only, elsewhere not at all."""
    deadline = time.monotonic() + seconds
    for pid in pids:
        with contextlib.suppress(AttributeError, OSError):
            descriptor = os.pidfd_open(pid)
            try:
                ended([descriptor], max(0.0, deadline - time.monotonic()))
            finally:
                os.close(descriptor)


def _say(text: str) -> None:
    """On stderr (descriptor 2 may be a rank's log), in one piece. A terminal that is held must not keep the job from
    ending: it may be why it hangs."""
    thread = threading.Thread(target=os.write, args=(sys.stderr.fileno(), text.encode()), daemon=True)
    thread.start()
    thread.join(_SAY_S)
