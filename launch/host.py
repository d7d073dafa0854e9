"""The agent on one of several hosts: starts the ranks there and tells how they ended.

It is told what to do on its standard input, by the command that has started it, and ends its ranks where that ends.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from launch.environment import accelerators, free_port
from launch.host_talk import heard, say
from launch.machine import Ended, Machine, Task
from launch.waiting_launcher import STOPS, waiting_launcher

_NO_ORDER: Mapping[str, Any] = {"kind": "end"}


def main() -> int:
    talk = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what ranks print is for people
    with waiting_launcher(quietly=True) as launcher:
        orders = heard(sys.stdin)
        say(talk, "ready", port=free_port(), devices=accelerators())
        order = next(orders, _NO_ORDER)
        if order["kind"] != "start":
            say(talk, "ended", **asdict(Ended(1, too_early=order["kind"] == "stop")))
            return 0
        task = _task(order["task"])
        if unknown := _unknown(task):
            say(talk, "ended", **asdict(Ended(2, said=unknown)))
            return 0
        machine = Machine(launcher, task.ranks_each, lambda rank: say(talk, "failed", rank=rank))
        for number in STOPS:  # Slurm signals every process of a job that it ends
            signal.signal(number, lambda number, frame: machine.stop(number))
        machine.start(task)
        threading.Thread(target=_follow, args=(orders, machine), daemon=True).start()
        say(talk, "ended", **asdict(machine.wait()))
        return 0  # else srun would tell of the code, which the command does


def _task(told: Mapping[str, Any]) -> Task:
    """JSON has no tuples."""
    return Task(**{**told, "hosts": tuple(told["hosts"]), "command": tuple(told["command"])})


def _follow(orders: Iterator[Mapping[str, Any]], machine: Machine) -> None:
    for order in orders:
        if order["kind"] == "stop":
            machine.stop(order["number"])
        elif order["kind"] == "end":
            break
    machine.end()


def _unknown(task: Task) -> str:
    """Why the ranks here would wait for the first host in vain; empty if they would not."""
    try:
        socket.getaddrinfo(task.address, task.port)
    except OSError as error:
        return (
            f"host {task.hosts[task.here]} does not know {task.address}, where all ranks meet ({error}): give the "
            "first host a name or address that all hosts know"
        )
    return ""


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code)  # a thread still reads the standard input, which Python would wait for
