"""The training loop: batches in, steps, metrics, checkpoints."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from configs.errors import REQUEUE
from tokenization.builder import SampleBuilder
from tokenization.errors import DataError
from trainer.checkpoint.choice import goes_on
from trainer.checkpoint.progress import Progress
from trainer.checkpoint.saver import Saver
from trainer.checkpoint.store import CheckpointError
from trainer.data.bad_rows import Quarantine
from trainer.data.held_out import HeldOut
from trainer.data.prefetch import Prefetch
from trainer.data.report import table, values
from trainer.data.state import State
from trainer.data.stream import RowStream
from trainer.evaluate import evaluate, is_due
from trainer.evaluations import EvaluationLog
from trainer.forecast import COMPARED, Forecast, compared
from trainer.guard import Guard
from trainer.stages import Ranges
from trainer.step import StepParts, Wishes, train_step
from trainer.tracker import Tracker
from trainer.watchdog import beat, begins, meets_alike


@dataclass(frozen=True)
class Run:
    """A run ready to train: everything the loop touches."""

    parts: StepParts
    builder: SampleBuilder
    """Template and tokenizer, which go into every checkpoint."""
    stream: RowStream
    stages: tuple[Ranges, ...]
    """Pipeline layers of each stage."""
    done: int
    """Steps taken before this start."""
    began: str | None
    """As in `Progress`."""
    model: str
    """`model_digest` of the files that it begins with: somebody may change them under it."""
    guard: Guard
    """As they left it."""
    tracker: Tracker | None
    """On rank 0 alone."""
    quarantine: Quarantine | None = None
    """Likewise."""
    forecast: Forecast | None = None
    held_out: HeldOut | None = None
    """What evaluations look at; None where there are none."""
    evaluations: EvaluationLog | None = None
    """On rank 0 alone."""

    @property
    def checkpoints(self) -> Path:
        return Path(self.parts.config.run.output_dir) / "checkpoints"


def train(run: Run) -> int:
    """Take the remaining steps. Returns the exit code: 0 when all are done, 75 when stopped by a signal."""
    stop = StopRequest()
    config, guard = run.parts.config, run.guard
    every = config.checkpoint.every

    def wishes() -> Wishes:
        return Wishes(stop=stop.wished, give_up=saver.failed)

    with _settled(run, saver_of(run)) as saver, closing(Prefetch(run.stream, config.batch.rows)) as batches:
        for step in range(run.done + 1, run.parts.steps + 1):
            begun = time.perf_counter()
            try:
                batch, data, bad_rows = next(batches)
            except DataError:
                with _told(run, OSError):
                    if run.quarantine and batches.bad_rows:
                        run.quarantine.add(batches.bad_rows)
                raise
            begins(step)
            taken = train_step(run.parts, batch, step, guard, wishes, begun, data.hash)
            beat(step)
            guard = taken.guard
            if taken.wishes.give_up:
                saver.settle()
            if run.tracker:
                run.tracker.record(taken.report, taken.fault)
            told = compared(run.forecast, taken.report, run.parts.grid) if step == run.done + COMPARED else ""
            if told and run.tracker:
                run.tracker.say(told)
            given_up = guard.given_up(step, taken.fault, config)
            if given_up:
                meets_alike()
            ends = step == run.parts.steps or taken.wishes.stop or given_up is not None
            said = run.quarantine.add(bad_rows, ends=ends) if run.quarantine else ""
            if said and run.tracker:
                run.tracker.say(said)
            saves = ends or (every is not None and step % every == 0)
            if saves:
                with _told(run, CheckpointError if given_up else ()):
                    save(run, saver, step, data, guard, ends=ends)
            _tell_news(run, saver)
            if given_up:
                raise given_up
            # After the save, which does not wait for it. A signal that comes meanwhile does not wait for another step.
            due = is_due(config.evaluation.every, step, run.parts.steps)
            if run.held_out and due and look(run, run.held_out, step, lambda: stop.wished) and not ends:
                ends = True
                if saves:
                    saver.settle()
                else:
                    save(run, saver, step, data, guard, ends=True)
                _tell_news(run, saver)
            if ends and step < run.parts.steps:
                if run.tracker:
                    how = "the same command goes on" if goes_on(config) else "checkpoint.resume=auto goes on"
                    run.tracker.say(f"stopped by a signal after step {step}: {how} from there")
                return REQUEUE
            if ends and run.tracker:
                run.tracker.say(table(run.stream.report(data)))
                run.tracker.attach(values(run.stream.report(data)))
    return 0


def look(run: Run, held_out: HeldOut, step: int, stop: Callable[[], bool]) -> bool:
    """Evaluate after `step` and log it; whether any rank was told to stop meanwhile. A collective of all ranks."""
    report, stopped = evaluate(run.parts, held_out, step, stop)
    if run.evaluations:
        run.evaluations.add(report)
    if run.tracker:
        run.tracker.say(report.said())
        run.tracker.tell_wandb(report.values(), step)
    return stopped


def save(run: Run, saver: Saver, step: int, data: State, guard: Guard, *, ends: bool) -> None:
    """The checkpoint of `step`, after which the stream stood at `data`; a collective of all ranks.

    Written in the background, unless the run ends with it or it is not to be.
    """
    parts, config = run.parts, run.parts.config
    progress = Progress(
        step=step,
        steps=parts.steps,
        cursor=run.stream.cursor(data),
        layout=parts.grid.layout,
        rows=config.batch.rows,
        model=run.model,
        guard=guard.as_json(),
        random=[],  # of all ranks; the saver asks them
        wandb_id=run.tracker.wandb_id if run.tracker else None,
        began=run.began,
    )
    saver.save(progress, background=config.checkpoint.background and not ends)


def saver_of(run: Run) -> Saver:
    parts = run.parts
    return Saver(parts.config, run.builder, parts.shape, run.stages, parts.engine, parts.grid)


@contextmanager
def _settled(run: Run, saver: Saver) -> Iterator[Saver]:
    """Where its data end the run, on all ranks alike, the checkpoint in the background is still committed."""
    try:
        yield saver
    except DataError:
        meets_alike()
        with _told(run, Exception):
            saver.settle()
        _tell_news(run, saver)
        raise


@contextmanager
def _told(run: Run, kinds: type[Exception] | tuple[()]) -> Iterator[None]:
    """Where the run ends for another reason: such an error is told and does not hide that."""
    try:
        yield
    except kinds as error:
        if run.tracker:
            run.tracker.say(f"{type(error).__name__}: {error}")


def _tell_news(run: Run, saver: Saver) -> None:
    for said in saver.news():
        if run.tracker:
            run.tracker.say(said)


class StopRequest:
    """SIGTERM or SIGUSR1 seen by this process; the step in progress is finished and saved first."""

    def __init__(self) -> None:
        self.wished = False
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self._note)

    def _note(self, number: int, frame: object) -> None:
        self.wished = True
