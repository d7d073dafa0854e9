"""The training loop: batches in, steps, metrics, checkpoints."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from configs.load import save_config
from trainer.checkpoint.hf_export import copy_companions, write_weights
from trainer.checkpoint.progress import Progress
from trainer.checkpoint.store import commit, prune
from trainer.checkpoint.training_state import write_training_state
from trainer.data.micro_batch import GlobalBatch, global_batches
from trainer.data.stream import RowStream
from trainer.metrics import Tracker
from trainer.model.names import Table
from trainer.step import StepParts, train_step

REQUEUE = 75
"""Exit code of a run that saved and stopped because it was told to: start it again to go on."""


@dataclass(frozen=True)
class Run:
    """A run ready to train: everything the loop touches."""

    parts: StepParts
    stream: RowStream
    table: Table
    bounds: tuple[int, ...]
    """Pipeline layers at which stages begin, closed by their number."""
    done: int
    """Steps taken before this start."""
    tracker: Tracker | None
    """On rank 0 alone."""

    @property
    def checkpoints(self) -> Path:
        return Path(self.parts.config.run.output_dir) / "checkpoints"


def train(run: Run) -> int:
    """Take the remaining steps. Returns the exit code: 0 when all are done, 75 when stopped by a signal."""
    stop = StopRequest()
    every = run.parts.config.checkpoint.every
    batches: Iterator[GlobalBatch] = global_batches(run.stream, run.parts.config.batch.rows)
    for step in range(run.done + 1, run.parts.steps + 1):
        report, stopping = train_step(run.parts, next(batches), step, stop.wished)
        if run.tracker:
            run.tracker.record(report)
        last = step == run.parts.steps
        if last or stopping or (every and step % every == 0):
            save(run, step)
        if stopping and not last:
            return REQUEUE
    return 0


def save(run: Run, step: int) -> Path:
    """Write and commit the checkpoint of `step`; a collective of all ranks."""
    parts, config = run.parts, run.parts.config
    progress = Progress(
        step=step,
        steps=parts.steps,
        cursor=run.stream.cursor(),
        layout=parts.grid.layout,
        wandb_id=run.tracker.wandb_id if run.tracker else None,
    )

    def write(folder: Path) -> None:
        write_weights(folder, parts.shape, run.bounds, parts.engine.parameters(), parts.grid)
        write_training_state(folder, parts.engine, run.table, parts.grid, progress)
        if parts.grid.is_main:
            dtype = next(iter(parts.engine.parameters().values())).dtype
            copy_companions(Path(config.model.path), folder, dtype)
            save_config(config, folder / "training_state" / "config.yaml")

    folder = commit(run.checkpoints, step, parts.grid, write)
    if run.tracker:
        prune(run.checkpoints, config.checkpoint.keep)
        run.tracker.say(f"checkpoint of step {step}: {folder}")
    return folder


class StopRequest:
    """SIGTERM or SIGUSR1 seen by this process; the step in progress is finished and saved first."""

    def __init__(self) -> None:
        self.wished = False
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self._note)

    def _note(self, number: int, frame: object) -> None:
        self.wished = True
