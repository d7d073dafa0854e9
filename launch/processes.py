"""Starting the ranks of one machine with DeepSpeed's launcher, and ending with a true exit code."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil

from configs.errors import ConfigError
from configs.layout import Layout
from configs.load import load_config
from configs.schema import Config
from configs.shapes import ModelShape
from launch.environment import accelerators, library_environment
from launch.preflight import check_settings, check_sources
from trainer.checkpoint.progress import read_progress
from trainer.checkpoint.store import resume_folder

ENTRY = Path(__file__).with_name("train.py")
PASSED_ON = (0, 2, 3, 75)
"""Exit codes of ranks with a meaning of their own; every other failure is 1."""


def run_processes(path: str, overrides: Sequence[str]) -> int:
    """Check everything that can be checked, start the ranks, wait. Raises ConfigError or DataError before."""
    config = load_config(path, overrides)
    layout = local_layout(config, accelerators())
    check_sources(config)
    folder = resume_folder(config)
    if folder:
        read_progress(folder, layout)
    print(_announcement(config, layout), file=sys.stderr)
    process = subprocess.Popen(_command(layout, path, overrides), env=library_environment() | os.environ)
    forward = _Forward(process.pid)
    code = process.wait()
    if code in PASSED_ON:
        return code
    if forward.interrupted:
        return 130
    print(f"agenttune: training ended with a failed rank (exit code {code})", file=sys.stderr)
    return 1


def local_layout(config: Config, devices: int) -> Layout:
    """The layout on this machine: `data: auto` takes all its devices, or one copy of the model on a CPU."""
    if devices == 0:
        return check_settings(config, None)
    automatic = isinstance(config.parallel.data, str)
    layout = check_settings(config, devices if automatic else None)
    if layout.world_size > devices:
        raise ConfigError(
            f"tensor {layout.tensor} x pipeline {layout.pipeline} x data {layout.data} = {layout.world_size} "
            f"processes for {devices} devices: make the product at most {devices}"
        )
    return layout


def _announcement(config: Config, layout: Layout) -> str:
    parameters = ModelShape.from_folder(config.model.path).parameters()
    sources = ", ".join(source.name for source in config.data.sources)
    return (
        f"{config.model.path} ({parameters:,} parameters, {config.model.dtype}) on {sources}: starting "
        f"{layout.world_size} ranks, tensor {layout.tensor} x pipeline {layout.pipeline} x data {layout.data}, "
        f"{layout.micro_batches(config.batch)} micro-batches of {config.batch.micro_rows} row(s) each per step"
    )


def _command(layout: Layout, path: str, overrides: Sequence[str]) -> list[str]:
    launcher = [sys.executable, "-m", "deepspeed.launcher.runner", "--no_local_rank", "--log_level=critical"]
    size = [f"--num_gpus={layout.world_size}", f"--master_port={_free_port()}", "--master_addr=127.0.0.1"]
    return [*launcher, *size, str(ENTRY), path, *overrides]


class _Forward:
    """Hands SIGTERM and SIGUSR1 to the ranks, past the launcher, which would kill them instead of waiting."""

    def __init__(self, launcher: int) -> None:
        self.interrupted = False
        self._launcher = launcher
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self._pass_on)
        signal.signal(signal.SIGINT, self._interrupt)  # the terminal sends it to the ranks itself

    def _pass_on(self, number: int, frame: object) -> None:
        for process in psutil.Process(self._launcher).children(recursive=True):
            try:
                if "RANK" in process.environ() and str(ENTRY) in process.cmdline():
                    process.send_signal(number)
            except psutil.Error:
                continue

    def _interrupt(self, number: int, frame: object) -> None:
        self.interrupted = True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
