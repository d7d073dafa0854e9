"""Jobs on many hosts, whose agents are scripts that say what agents say: which failed first, and what all come to."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import pytest

from configs.errors import REQUEUE
from launch import many_hosts
from launch.hosts import Host, Hosts
from launch.machine import Ended
from launch.many_hosts import ManyHosts
from trainer.hang import NOBODY

HOSTS = Hosts((Host("a", 2), Host("b", 2)), "ssh")
AGENT = """
import json, os, sys, time
from launch.host_talk import heard, say
orders = heard(sys.stdin)
def tell(kind, **values):
    say(sys.stdout, kind, **values)
def ready(devices=0):
    print("Welcome to this machine!", flush=True)
    tell("ready", port=12345, devices=devices)
def order(kind):
    told = next(orders, {"kind": "gone"})
    assert told["kind"] == kind, told
    return told
def ended(code=0, **values):
    tell("ended", **{"code": code, "said": "", "fault": "", "alike": False, "too_early": False} | values)
"""
WELL = "ready(); order('start'); ended()"
UNTIL_ENDED = "ready(); order('start'); order('end'); ended(1, said='closed by peer', fault='rank 0 failed')"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Ended]]:
    """How a job ends whose hosts do this."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)}

    def run_(*does: str, act: Callable[[ManyHosts], None] = lambda job: None) -> Ended:
        scripts = dict(zip("ab", does, strict=True))
        python = [sys.executable, "-c"]
        monkeypatch.setattr(many_hosts, "reach", lambda by, name, env: [*python, AGENT + scripts[name]])
        job = ManyHosts(HOSTS, 2, ("c.yaml",))
        threading.Thread(target=act, args=(job,), daemon=True).start()
        return job.wait()

    yield run_
    for number, handler in kept.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("code", [0, REQUEUE])
def test_all_end_well(run: Callable[..., Ended], code: int) -> None:
    does = f"ready(); order('start'); time.sleep(0.2); ended({code})"
    assert run(does, f"ready(); order('start'); ended({code})") == Ended(code)


def test_each_host_is_told_its_place(run: Callable[..., Ended]) -> None:
    does = "ready(); task = order('start')['task']; ended(2, said=json.dumps(task))"
    told = run(does, "ready(); order('start'); order('end'); ended(1)").said
    expected: dict[str, Any] = {
        "hosts": ["a", "b"],
        "here": 0,
        "ranks_each": 2,
        "address": "a",
        "port": 12345,
    }
    import json

    assert json.loads(told) == expected | {"command": ["c.yaml"]}


def test_the_host_that_fails_first_is_to_blame(run: Callable[..., Ended]) -> None:
    """Though the other tells first how it ended."""
    fails = "ready(); order('start'); tell('failed', rank=3); time.sleep(0.5); ended(1, said='boom', fault='it failed')"
    follows = (
        "ready(); order('start'); time.sleep(0.3); tell('failed', rank=0); ended(1, said='closed by peer')"
    )
    ended = run(follows, fails)
    assert (ended.code, ended.said, ended.fault) == (1, "boom", "it failed (on b)")


def test_the_others_are_told_to_end(run: Callable[..., Ended]) -> None:
    fails = "ready(); order('start'); tell('failed', rank=3); ended(3, said='bad row', alike=True)"
    ended = run(UNTIL_ENDED, fails)
    assert (ended.code, ended.said, ended.alike) == (3, "bad row", True)


def test_one_that_does_not_listen_is_ended(run: Callable[..., Ended]) -> None:
    begun = time.monotonic()
    fails = "ready(); order('start'); tell('failed', rank=3); ended(1, fault='rank 3 failed')"
    assert run("ready(); time.sleep(100)", fails).fault == "rank 3 failed (on b)"
    assert time.monotonic() - begun < 30


def test_a_lost_host(run: Callable[..., Ended]) -> None:
    ended = run(UNTIL_ENDED, "ready(); order('start'); os._exit(255)")
    assert (ended.code, ended.fault) == (1, "host b was lost: ssh ended with 255")
    follows = (
        "ready(); order('start'); tell('failed', rank=0); time.sleep(0.5); ended(1, said='closed by peer')"
    )
    ended = run(follows, "ready(); order('start'); time.sleep(0.3); os._exit(255)")
    assert (ended.said, ended.fault) == ("", "host b was lost: ssh ended with 255")
    ended = run("ready(); order('end'); ended(1)", "os.kill(os.getpid(), 9)")
    assert (ended.code, ended.fault) == (1, "host b was lost: ssh was killed by SIGKILL")


def test_a_host_that_does_not_answer(run: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(many_hosts, "_READY_S", 2.0)
    ended = run("ready(); order('end'); ended(1)", "time.sleep(100)")
    assert (ended.code, ended.fault) == (1, "host b did not answer in 2 s")


def test_a_host_with_too_few_devices(run: Callable[..., Ended]) -> None:
    ended = run("ready(2); order('end'); ended(1)", "ready(1); order('end'); ended(1)")
    assert (ended.code, ended.fault) == (1, "host b has 1 devices for 2 ranks")


def test_a_hang_is_blamed_on_the_host_where_something_is_found(run: Callable[..., Ended]) -> None:
    """All hosts see it at about the same time; the one with nothing to blame may be first."""
    first = f"ready(); order('start'); tell('failed', rank=0); ended(1, fault='{NOBODY}')"
    second = "ready(); order('start'); time.sleep(0.3); ended(1, fault='rank 3 is stopped')"
    assert run(first, second).fault == "rank 3 is stopped"


def test_a_stop_reaches_all(run: Callable[..., Ended]) -> None:
    does = (
        f"ready(); order('start'); assert order('stop')['number'] == {int(signal.SIGUSR1)}; ended({REQUEUE})"
    )

    def act(job: ManyHosts) -> None:
        while not job.have_begun():
            time.sleep(0.01)
        job.stop(signal.SIGUSR1)

    assert run(does, does, act=act) == Ended(REQUEUE)


def test_a_stop_before_there_are_ranks(run: Callable[..., Ended]) -> None:
    does = "time.sleep(0.5); ready(); ended(1, too_early=order('stop')['kind'] == 'stop')"
    ended = run(does, does, act=lambda job: job.stop(signal.SIGTERM))
    assert ended.too_early
    begun = time.monotonic()  # hosts that cannot be reached do not keep it
    ended = run("time.sleep(100)", "time.sleep(100)", act=lambda job: job.stop(signal.SIGTERM))
    assert (ended.too_early, ended.fault) == (True, "")
    assert time.monotonic() - begun < 60 < many_hosts._READY_S
    ended = run("sys.exit(75)", "sys.exit(75)")  # Slurm has signalled them, and not the command
    assert ended.too_early


def test_all_end_at_once(run: Callable[..., Ended]) -> None:
    def act(job: ManyHosts) -> None:
        while not job.have_begun():
            time.sleep(0.01)
        job.end()

    assert run(UNTIL_ENDED, UNTIL_ENDED, act=act).code == 1


def test_what_is_told_is_what_is_heard() -> None:
    from io import StringIO

    from launch.host_talk import heard, say

    stream = StringIO()
    say(stream, "ended", **asdict(Ended(3, "a\nb ü", "c", True, False)))
    stream.write("something else\nagenttune-host no JSON\n")
    stream.seek(0)
    (told,) = heard(stream)
    assert Ended(**{key: value for key, value in told.items() if key != "kind"}) == Ended(
        3, "a\nb ü", "c", True, False
    )
    assert os.linesep == "\n"
