"""`agenttune train`: checks, the ranks started here or on many hosts, signals handed on, a true exit code."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from configs.errors import REQUEUE, ConfigError
from configs.layout import Layout
from configs.load import load_config
from configs.schema import Config
from configs.shapes import ModelShape
from launch.environment import accelerators, free_port
from launch.hosts import Hosts, crosses_hosts, find_hosts
from launch.machine import Ended, Job, Machine, Task
from launch.many_hosts import ManyHosts
from launch.preflight import check_settings, check_start
from launch.waiting_launcher import STOPS, TOO_EARLY
from tokenization.builder import SampleBuilder
from tokenization.errors import DataError
from trainer.checkpoint.choice import goes_on
from trainer.checkpoint.progress import model_digest
from trainer.checkpoint.store import committed

PASSED_ON = (0, 2, 3, REQUEUE)
"""Exit codes of ranks with a meaning of their own; every other failure is 1."""


def run_processes(path: str, overrides: Sequence[str], launcher: subprocess.Popen[bytes]) -> int:
    """Check everything that can be checked, have the ranks started, wait. Raises ConfigError or DataError before."""
    config = load_config(path, overrides)
    model = model_digest(Path(config.model.path))
    hosts = find_hosts(config.launch.hostfile, accelerators(), os.environ)
    layout, builder = spread_layout(config, hosts)
    if said := check_start(config, builder, model):
        print(said, file=sys.stderr)
        return 0
    print(_announcement(config, layout, hosts), file=sys.stderr)
    command = (path, *overrides)
    job: Job
    if hosts.reached_by:
        launcher.kill()  # each host has its own
        job = ManyHosts(hosts, hosts.ranks_each(layout), command)
    else:
        job = Machine(launcher, layout.world_size)
    forward = _Forward(job)
    if isinstance(job, Machine):
        job.start(Task(("localhost",), 0, layout.world_size, "127.0.0.1", free_port(), command))
    ended = job.wait()
    return _told(config, ended, forward.interrupts)


def _told(config: Config, ended: Ended, interrupts: int) -> int:
    """What is said of the end of a job, and its exit code."""
    code = ended.code
    if code in PASSED_ON or not ended.too_early:
        for line in ended.said.splitlines():
            print(f"agenttune: {line}", file=sys.stderr)
    else:
        print(TOO_EARLY, file=sys.stderr)
    if interrupts and code:
        if interrupts > 1:
            _tell_newest(config)
        return 130
    if code in PASSED_ON:
        if code == DataError.exit_code and config.data.on_error == "strict":
            _tell_newest(config, "data.on_error=skip leaves such rows out and")
        return code
    if ended.too_early:
        return REQUEUE
    if ended.alike:
        return code
    _tell_newest(config)
    print(f"agenttune: the training was ended: {ended.fault}", file=sys.stderr)
    return 1


def spread_layout(config: Config, hosts: Hosts) -> tuple[Layout, SampleBuilder]:
    """The layout on these hosts: `data: auto` takes all their devices, or one copy of the model on CPUs.

    Returned with what `check_settings` opened to find it. Raises ConfigError.
    """
    slots = hosts.slots
    automatic = isinstance(config.parallel.data, str)
    layout, builder = check_settings(config, slots if automatic else None)
    if slots is not None and layout.world_size > slots:
        raise ConfigError(
            f"{layout} = {layout.world_size} processes for {slots} devices: make the product at most {slots}"
        )
    each = hosts.ranks_each(layout)
    if len(hosts.hosts) > 1 and crosses_hosts(layout, each):
        print(
            f"parallel.tensor={layout.tensor} does not divide the {each} ranks of a host: each layer will wait for the "
            "network",
            file=sys.stderr,
        )
    return layout, builder


def _tell_newest(config: Config, how: str = "") -> None:
    """The checkpoint of its own that a start goes on from, where there is one, and how."""
    with contextlib.suppress(ConfigError):
        for folder in committed(Path(config.run.output_dir) / "checkpoints")[:1]:
            how = how or ("the same command" if goes_on(config) else "checkpoint.resume=auto")
            print(f"agenttune: {how} goes on from {folder.name}", file=sys.stderr)


def _announcement(config: Config, layout: Layout, hosts: Hosts) -> str:
    parameters = ModelShape.from_folder(config.model.path).parameters()
    saved = "" if config.checkpoint.every else "; saved at its end alone (checkpoint.every is not set)"
    sources = ", ".join(source.name for source in config.data.sources)
    names = ", ".join(host.name for host in hosts.hosts)
    where = f" on {len(hosts.hosts)} hosts ({names})" if hosts.reached_by else ""
    return (
        f"{config.model.path} ({parameters:,} parameters, {config.model.dtype}) on {sources}: starting "
        f"{layout.world_size} rank{'s' if layout.world_size > 1 else ''}{where}, {layout}, "
        f"{layout.micro_batches(config.batch)} micro-batches of {config.batch.micro_rows} row(s) each per step{saved}"
    )


class _Forward:
    """Hands on to the ranks what tells this process to stop."""

    def __init__(self, job: Job) -> None:
        self.interrupts = 0
        self._job = job
        for number in STOPS:
            signal.signal(number, lambda number, frame: job.stop(number))
        signal.signal(signal.SIGINT, self._interrupt)

    def _interrupt(self, number: int, frame: object) -> None:
        """Ctrl-C is a wish to stop like the others; a second one does not wait for the step and its checkpoint."""
        self.interrupts += 1
        if self.interrupts > 1:
            print("agenttune: interrupted again: ended at once", file=sys.stderr)
            self._job.end()
            return
        self._job.stop(signal.SIGTERM)
        if self._job.have_begun():
            said = "agenttune: interrupted: finishing the step and saving; once more ends at once"
            print(said, file=sys.stderr)
