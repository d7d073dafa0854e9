"""A job's ranks on many hosts, seen from the command that has started them."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from math import inf
from typing import Any

from configs.errors import REQUEUE
from launch.host_talk import heard, say
from launch.hosts import Hosts, node_address
from launch.machine import Ended, Task
from launch.reach import reach
from launch.waiting_launcher import hear_no_more
from trainer.hang import NOBODY

_FINISHED = (0, REQUEUE)
_READY_S = 300.0
"""Seconds in which every host has to answer."""
_GRACE_S = 1.0
"""Seconds that the other hosts have to end by themselves after a rank has failed: they may have to tell of a hang."""
_GONE_S = 2.5
"""Seconds after which a host that was told to end its ranks is given up."""


class ManyHosts:
    """Starts an agent on each host, and ranks when all have answered. Where one fails, all end."""

    def __init__(self, hosts: Hosts, ranks_each: int, command: Sequence[str]) -> None:
        self._by, self._ranks_each, self._command = hosts.reached_by, ranks_each, tuple(command)
        self._names = tuple(host.name for host in hosts.hosts)
        self._address = os.environ.get("MASTER_ADDR") or (
            node_address(self._names[0]) if self._by == "srun" else self._names[0]
        )
        # Not `Queue`: a signal's handler puts something in, whatever this thread is at, and must find no lock.
        self._events: queue.SimpleQueue[tuple[int, Mapping[str, Any]]] = queue.SimpleQueue()
        self._ready: dict[int, Mapping[str, Any]] = {}
        self._ended: dict[int, Ended] = {}
        self._gone: dict[int, int] = {}
        """Exit codes of what reached the hosts."""
        self._first: int | None = None
        """The host on which something failed first."""
        self._fault = ""
        """What is wrong with the hosts themselves."""
        self._end_at = inf
        self._told_to_end = False
        self._began = False
        self._stopped = False
        # In sessions of their own, as the launcher of one machine is: Ctrl-C comes here alone, and is handed on.
        self._agents = [
            subprocess.Popen(
                reach(self._by, name, os.environ),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                errors="replace",
                start_new_session=True,
            )
            for name in self._names
        ]
        for index in range(len(self._agents)):
            threading.Thread(target=self._listen, args=(index,), daemon=True).start()

    def stop(self, number: int) -> None:
        self._stopped = True
        self._events.put((-1, {"kind": "stop", "number": number}))

    def end(self) -> None:
        self._end_at = 0.0
        self._events.put((-1, {"kind": "look"}))

    def have_begun(self) -> bool:
        return self._began

    def wait(self) -> Ended:
        ready_until, kill_at = time.monotonic() + _READY_S, inf
        while len(self._gone) < len(self._agents):
            now = time.monotonic()
            if not self._began and self._first is None and now > ready_until:
                late = [name for index, name in enumerate(self._names) if index not in self._ready]
                self._give_up(f"host {', '.join(late)} did not answer in {_READY_S:.0f} s")
            if now >= self._end_at:
                self._end_at, kill_at, self._told_to_end = inf, now + _GONE_S, True
                self._tell_all("end")
            if now >= kill_at:
                kill_at = inf
                for agent in self._agents:
                    agent.kill()
            with contextlib.suppress(queue.Empty):
                self._note(*self._events.get(timeout=max(0.0, min(self._end_at, kill_at, now + 1) - now)))
        hear_no_more()
        return self._merged()

    def _note(self, index: int, event: Mapping[str, Any]) -> None:
        kind, values = event["kind"], {key: value for key, value in event.items() if key != "kind"}
        if kind == "ready":
            self._ready[index] = values
            if len(self._ready) == len(self._agents) and self._first is None and not self._stopped:
                self._start()
        elif kind == "ended":
            self._ended[index] = Ended(**values)
        elif kind == "gone":
            self._gone[index] = values["code"]
        elif kind == "stop":
            self._tell_all("stop", number=values["number"])
            if not self._began:  # who has not answered yet hears nothing
                self._end_at = min(self._end_at, time.monotonic() + _GRACE_S)
        lost = kind == "gone" and index not in self._ended
        if lost or kind == "failed" or (kind == "ended" and values["code"] not in _FINISHED):
            # A lost host is seen when its ranks are gone, which those of others may have met before.
            if self._first is None or (lost and not self._told_to_end):
                self._first = index
            if not self._told_to_end:
                self._end_at = min(self._end_at, time.monotonic() + _GRACE_S)

    def _start(self) -> None:
        devices = [int(ready["devices"]) for ready in self._ready.values()]
        if max(devices) and min(devices) < self._ranks_each:
            few = min(self._ready, key=lambda index: self._ready[index]["devices"])
            self._give_up(f"host {self._names[few]} has {min(devices)} devices for {self._ranks_each} ranks")
            return
        self._began = True
        task = Task(self._names, 0, self._ranks_each, self._address, self._ready[0]["port"], self._command)
        for index, agent in enumerate(self._agents):
            assert agent.stdin
            say(agent.stdin, "start", task=asdict(replace(task, here=index)))

    def _give_up(self, fault: str) -> None:
        self._fault, self._first, self._end_at = fault, 0, 0.0

    def _tell_all(self, kind: str, **values: Any) -> None:
        for agent in self._agents:
            assert agent.stdin
            say(agent.stdin, kind, **values)

    def _listen(self, index: int) -> None:
        agent = self._agents[index]
        assert agent.stdout
        for event in heard(agent.stdout):
            self._events.put((index, event))
        self._events.put((index, {"kind": "gone", "code": agent.wait()}))

    def _merged(self) -> Ended:
        """How the job ended: as the host did where something failed first, and all as one where nothing did."""
        if self._fault:
            return Ended(1, fault=self._fault)
        if self._stopped and not self._began:
            return Ended(1, too_early=True)
        if self._first is None:
            return Ended(max(ended.code for ended in self._ended.values()))
        name, ended = self._names[self._first], self._ended.get(self._first)
        if ended is None:
            code = self._gone[self._first]
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
            early = (self._stopped or code == REQUEUE) and not self._began
            return Ended(1, fault=f"host {name} was lost: {self._by} {how}", too_early=early)
        named = [other for other in self._ended.values() if other.fault and NOBODY not in other.fault]
        fault = ended.fault if NOBODY not in ended.fault or not named else named[0].fault
        return replace(ended, fault=f"{fault} (on {name})" if fault == ended.fault else fault)
