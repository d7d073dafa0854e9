"""The training loop: batches in, steps, metrics, checkpoints."""

from __future__ import annotations

import signal
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from configs.errors import REQUEUE
from tokenization.builder import SampleBuilder
from tokenization.errors import DataError
from trainer.checkpoint.hf_export import write_weights
from trainer.checkpoint.manifest import Records
from trainer.checkpoint.postponed import Postponed
from trainer.checkpoint.progress import Progress, model_digest
from trainer.checkpoint.store import commit, goes_on, prune
from trainer.checkpoint.texts import write_texts
from trainer.checkpoint.training_state import write_training_state
from trainer.data.bad_rows import Quarantine
from trainer.data.prefetch import Prefetch
from trainer.data.report import table
from trainer.data.state import State
from trainer.data.stream import RowStream
from trainer.metrics import Tracker
from trainer.step import StepParts, train_step


@dataclass(frozen=True)
class Run:
    """A run ready to train: everything the loop touches."""

    parts: StepParts
    builder: SampleBuilder
    """Template and tokenizer, which go into every checkpoint."""
    stream: RowStream
    bounds: tuple[int, ...]
    """Pipeline layers at which stages begin, closed by their number."""
    done: int
    """Steps taken before this start."""
    tracker: Tracker | None
    """On rank 0 alone."""
    quarantine: Quarantine | None = None
    """Likewise."""

    @property
    def checkpoints(self) -> Path:
        return Path(self.parts.config.run.output_dir) / "checkpoints"


def train(run: Run) -> int:
    """Take the remaining steps. Returns the exit code: 0 when all are done, 75 when stopped by a signal."""
    stop = StopRequest()
    config = run.parts.config
    every = config.checkpoint.every
    with closing(Prefetch(run.stream, config.batch.rows)) as batches:
        for step in range(run.done + 1, run.parts.steps + 1):
            begun = time.perf_counter()
            try:
                batch, data, bad_rows = next(batches)
            except DataError:
                if run.quarantine and batches.bad_rows:
                    run.quarantine.add(batches.bad_rows)
                raise
            report, stopping = train_step(run.parts, batch, step, stop.wished, begun, data.hash)
            if run.tracker:
                run.tracker.record(report)
            last = step == run.parts.steps
            said = run.quarantine.add(bad_rows, ends=last or stopping) if run.quarantine else ""
            if said and run.tracker:
                run.tracker.say(said)
            if last or stopping or (every and step % every == 0):
                save(run, step, data)
            if stopping and not last:
                if run.tracker:
                    how = "the same command goes on" if goes_on(config) else "checkpoint.resume=auto goes on"
                    run.tracker.say(f"stopped by a signal after step {step}: {how} from there")
                return REQUEUE
            if last and run.tracker:
                run.tracker.say(table(run.stream.report(data)))
    return 0


def save(run: Run, step: int, data: State) -> Path:
    """Write and commit the checkpoint of `step`, after which the stream stood at `data`; a collective of all ranks."""
    parts, config = run.parts, run.parts.config
    progress = Progress(
        step=step,
        steps=parts.steps,
        cursor=run.stream.cursor(data),
        layout=parts.grid.layout,
        rows=config.batch.rows,
        model=model_digest(Path(config.model.path)),
        wandb_id=run.tracker.wandb_id if run.tracker else None,
    )

    def write(folder: Path) -> Records:
        failures = Postponed()
        written: Records = {}
        with failures.attempt():
            written |= write_weights(folder, parts.shape, run.bounds, parts.engine.parameters(), parts.grid)
        with failures.attempt():
            written |= write_training_state(
                folder, parts.engine, parts.shape, run.bounds, parts.grid, progress
            )
        if parts.grid.is_main:
            with failures.attempt():
                written |= write_texts(folder, config, run.builder, parts.shape.vocab)
        failures.settle()
        return written

    folder = commit(run.checkpoints, step, parts.grid, write)
    if run.tracker:
        try:
            prune(run.checkpoints, config.checkpoint.keep)
        except OSError as error:  # no reason to end a run whose checkpoint is safe
            run.tracker.say(f"an old checkpoint could not be deleted: {error}")
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
