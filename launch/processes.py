"""Starting the ranks of one machine with DeepSpeed's launcher, and ending with a true exit code."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil

from configs.errors import REQUEUE, ConfigError
from configs.layout import Layout
from configs.load import load_config
from configs.schema import Config
from configs.shapes import ModelShape
from configs.weights import check_weights
from launch.environment import accelerators, free_port
from launch.preflight import check_output, check_settings, check_sources
from launch.ranks import ENTRY, Ranks
from launch.waiting_launcher import STOPS, TOO_EARLY, hear_no_more, tell
from tokenization.builder import SampleBuilder
from tokenization.errors import DataError
from trainer.checkpoint.choice import check_some_left, goes_on, resume_folder
from trainer.checkpoint.progress import model_digest, nothing_to_do, read_progress
from trainer.checkpoint.store import committed
from trainer.data.epochs import known_steps

PASSED_ON = (0, 2, 3, REQUEUE)
"""Exit codes of ranks with a meaning of their own; every other failure is 1."""


def run_processes(path: str, overrides: Sequence[str], launcher: subprocess.Popen[bytes]) -> int:
    """Check everything that can be checked, have the ranks started, wait. Raises ConfigError or DataError before."""
    config = load_config(path, overrides)
    model = model_digest(Path(config.model.path))
    layout, builder = local_layout(config, accelerators())
    folder = resume_folder(config)
    if folder is None:
        check_weights(Path(config.model.path))
    check_output(config)
    stream = check_sources(config, builder)
    if folder:
        progress = read_progress(folder, config, model)
        stream.check_cursor(progress.cursor, folder)
        steps = known_steps(config, stream, builder)
        check_some_left(config, folder, progress.step, steps)
        if said := nothing_to_do(progress.step, steps):
            print(said, file=sys.stderr)
            return 0
    print(_announcement(config, layout), file=sys.stderr)
    ranks = Ranks(launcher, layout.world_size)
    forward = _Forward(launcher, ranks)
    tell(launcher, _arguments(layout, path, overrides))
    launched = launcher.wait()
    hear_no_more()
    code = ranks.settle(launched)
    too_early = code not in PASSED_ON and (forward.too_early or (forward.stopped and ranks.unheard))
    if too_early:
        print(TOO_EARLY, file=sys.stderr)
    if forward.interrupts and code:
        if forward.interrupts > 1:
            _tell_newest(config)
        return 130
    if code in PASSED_ON:
        if code == DataError.exit_code and config.data.on_error == "strict":
            _tell_newest(config, "data.on_error=skip leaves such rows out and")
        return code
    if too_early:
        return REQUEUE
    if ranks.alike:
        return code
    guilty = "a rank" if ranks.first_failed is None else f"rank {ranks.first_failed}"
    fault = ranks.hang or f"{guilty} failed, was killed or left first"
    if launched < 0 and not ranks.ended_launcher:
        fault = f"its launcher was killed by signal {-launched}"
    _tell_newest(config)
    print(f"agenttune: the training was ended: {fault}", file=sys.stderr)
    return 1


def local_layout(config: Config, devices: int) -> tuple[Layout, SampleBuilder]:
    """The layout on this machine: `data: auto` takes all its devices, or one copy of the model on a CPU.

    Returned with what `check_settings` opened to find it.
    """
    if devices == 0:
        return check_settings(config, None)
    automatic = isinstance(config.parallel.data, str)
    layout, builder = check_settings(config, devices if automatic else None)
    if layout.world_size > devices:
        raise ConfigError(
            f"{layout} = {layout.world_size} processes for {devices} devices: make the product at most {devices}"
        )
    return layout, builder


def _tell_newest(config: Config, how: str = "") -> None:
    """The checkpoint of its own that a start goes on from, where there is one, and how."""
    with contextlib.suppress(ConfigError):
        for folder in committed(Path(config.run.output_dir) / "checkpoints")[:1]:
            how = how or ("the same command" if goes_on(config) else "checkpoint.resume=auto")
            print(f"agenttune: {how} goes on from {folder.name}", file=sys.stderr)


def _announcement(config: Config, layout: Layout) -> str:
    parameters = ModelShape.from_folder(config.model.path).parameters()
    saved = "" if config.checkpoint.every else "; saved at its end alone (checkpoint.every is not set)"
    sources = ", ".join(source.name for source in config.data.sources)
    return (
        f"{config.model.path} ({parameters:,} parameters, {config.model.dtype}) on {sources}: starting "
        f"{layout.world_size} rank{'s' if layout.world_size > 1 else ''}, {layout}, "
        f"{layout.micro_batches(config.batch)} micro-batches of {config.batch.micro_rows} row(s) each per step{saved}"
    )


def _arguments(layout: Layout, path: str, overrides: Sequence[str]) -> list[str]:
    """What DeepSpeed's launcher is told."""
    visible = [device for device in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if device]
    devices = visible[: layout.world_size] if visible and accelerators() else list(range(layout.world_size))
    world = base64.urlsafe_b64encode(json.dumps({"localhost": devices}).encode()).decode()
    place = [f"--world_info={world}", f"--master_port={free_port()}", "--master_addr=127.0.0.1"]
    return ["--no_local_rank", "--log_level=critical", *place, str(ENTRY), path, *overrides]


class _Forward:
    """Hands SIGTERM and SIGUSR1 to the ranks, past the launcher, which would end them after 30 seconds."""

    def __init__(self, launcher: subprocess.Popen[bytes], ranks: Ranks) -> None:
        self.interrupts = 0
        self.stopped = False
        self.too_early = False
        """Told to stop before there was any rank."""
        self._launcher = launcher
        self._ranks = ranks
        for number in STOPS:
            signal.signal(number, self._pass_on)
        signal.signal(signal.SIGINT, self._interrupt)

    def _pass_on(self, number: int, frame: object) -> None:
        self.stopped = True
        ranks = self._ranks.alive()
        for rank in ranks.values():
            with contextlib.suppress(psutil.Error):
                rank.send_signal(number)
        if not ranks:
            self.too_early = True
            self._launcher.terminate()

    def _interrupt(self, number: int, frame: object) -> None:
        """Ctrl-C is a wish to stop like the others; a second one does not wait for the step and its checkpoint."""
        self.interrupts += 1
        if self.interrupts > 1:
            print("agenttune: interrupted again: ended at once", file=sys.stderr)
            self._launcher.kill()  # the ranks end with it
            return
        self._pass_on(signal.SIGTERM, frame)
        if self._ranks.have_begun:
            said = "agenttune: interrupted: finishing the step and saving; once more ends at once"
            print(said, file=sys.stderr)
