"""The ranks of one machine, from the launcher that starts them to how they ended."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import psutil

from launch.environment import accelerators
from launch.ranks import ENTRY, Ranks
from launch.waiting_launcher import hear_no_more, tell


@dataclass(frozen=True)
class Task:
    """What a machine is to run. Ranks are numbered from host to host, as many on each."""

    hosts: tuple[str, ...]
    here: int
    """Which of them this machine is."""
    ranks_each: int
    address: str
    """Where all ranks meet: of the first host, as the others reach it."""
    port: int
    command: tuple[str, ...]
    """Config and overrides."""


@dataclass(frozen=True)
class Ended:
    """How ranks ended."""

    code: int
    said: str = ""
    """The error to be told, by the rank that met it; empty where none could."""
    fault: str = ""
    """In words what ended the job, which rank is to blame."""
    alike: bool = False
    """All ranks met the error, none is to blame."""
    too_early: bool = False
    """Told to stop before there was a step to save."""


class Job(Protocol):
    """Ranks that have been started, here or on many hosts."""

    def stop(self, number: int) -> None:
        """Hand on a signal that says save and stop."""
        ...

    def end(self) -> None:
        """End all at once."""
        ...

    def have_begun(self) -> bool:
        """Whether they have taken a step, as far as is known; before that a signal ends them."""
        ...

    def wait(self) -> Ended:
        """Returns when no rank is left."""
        ...


class Machine:
    """The ranks of this machine."""

    def __init__(
        self,
        launcher: subprocess.Popen[bytes],
        ranks: int,
        on_failure: Callable[[int], None] = lambda rank: None,
    ) -> None:
        """launcher: waits to be told; on_failure: as in `Ranks`"""
        self._launcher = launcher
        self._ranks = Ranks(launcher, ranks, on_failure)
        self._stopped = False
        self._too_early = False

    def start(self, task: Task) -> None:
        tell(self._launcher, launcher_arguments(task))

    def stop(self, number: int) -> None:
        """To the ranks, past their launcher, which would end them after 30 seconds."""
        self._stopped = True
        ranks = self._ranks.alive()
        for rank in ranks.values():
            with contextlib.suppress(psutil.Error):
                rank.send_signal(number)
        if not ranks:
            self._too_early = True
            self._launcher.terminate()

    def end(self) -> None:
        self._launcher.kill()  # the ranks end with it

    def have_begun(self) -> bool:
        return self._ranks.have_begun

    def wait(self) -> Ended:
        launched = self._launcher.wait()
        hear_no_more()
        ranks = self._ranks
        code = ranks.settle(launched)
        guilty = "a rank" if ranks.first_failed is None else f"rank {ranks.first_failed}"
        fault = ranks.hang or f"{guilty} failed, was killed or left first"
        if launched < 0 and not ranks.ended_launcher:
            fault = f"its launcher was killed by signal {-launched}"
        too_early = self._too_early or (self._stopped and ranks.unheard)
        return Ended(code, ranks.said, fault, ranks.alike, too_early)


def launcher_arguments(task: Task) -> list[str]:
    """What DeepSpeed's launcher is told."""
    visible = [device for device in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if device]
    count = task.ranks_each
    devices = visible[:count] if visible and accelerators() else list(range(count))
    world = base64.urlsafe_b64encode(json.dumps(dict.fromkeys(task.hosts, devices)).encode()).decode()
    place = [f"--node_rank={task.here}", f"--master_addr={task.address}", f"--master_port={task.port}"]
    options = ["--no_local_rank", "--log_level=critical", f"--world_info={world}", *place]
    return [*options, str(ENTRY), *task.command]
