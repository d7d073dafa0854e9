"""Which processes above a rank are launchers."""

from __future__ import annotations

import os

import pytest

from launch import ancestors

PYTHON, ENTRY = "/usr/bin/python3.11", "/code/launch/train.py"
AGENTTUNE = [PYTHON, "/usr/bin/agenttune", "train", "config.yaml"]
DEEPSPEED = [PYTHON, "/code/launch/deepspeed_launcher.py"]


def above(monkeypatch: pytest.MonkeyPatch, commands: dict[int, list[str]]) -> list[int]:
    """What is found where these processes are above this one, the nearest first, the last the system's first."""
    pids = list(commands)
    parents = dict(zip(pids, [*pids[1:], 0], strict=True))
    monkeypatch.setattr(os, "getppid", lambda: pids[0])
    monkeypatch.setattr(ancestors, "_command", commands.get)
    monkeypatch.setattr(ancestors, "_parent", parents.get)
    return ancestors.launcher_pids()


def test_launchers_up_to_the_first_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    shell = ["/bin/bash", "-c", "agenttune train config.yaml"]
    assert above(monkeypatch, {30: DEEPSPEED, 20: AGENTTUNE, 10: shell, 1: ["/sbin/init"]}) == [30, 20]
    assert above(monkeypatch, {10: shell, 1: ["/sbin/init"]}) == []


def test_a_containers_first_process_may_be_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert above(monkeypatch, {7: DEEPSPEED, 1: AGENTTUNE}) == [7, 1]
    assert above(monkeypatch, {1: [PYTHON, "-m", "torch.distributed.run", ENTRY]}) == [1]
