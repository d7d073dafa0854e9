"""R11: SIGTERM and SIGUSR1 at any time, one or two of them, to one rank or to all."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from random import Random

from faults import BATCH, CLOCK, SAVE, Fault
from lab import NAMES, STEPS, Straight, measured, visible
from trials import Trials

from configs.errors import REQUEUE

MOMENTS: list[tuple[str, Callable[[Random, Straight], float]]] = [
    (CLOCK, lambda random, run: random.uniform(0, run.seconds)),
    (BATCH, lambda random, run: random.randrange(STEPS)),
    (SAVE, lambda random, run: random.randrange(60)),
]
"""In the start or anywhere; before a step; in a save, most of which are in the background."""


def test_a_signal_saves_once_and_the_run_goes_on(
    trials: Trials, straight: Callable[[str], Straight], tmp_path: Path
) -> None:
    held = "the step is finished, one whole checkpoint, exit code 75; resumed bit by bit"
    for trial in trials("R11 SIGTERM, SIGUSR1 in a step, a save, the start", held, few=3, of=40):
        random, (event, moment) = trial.random, trial.turn(MOMENTS)
        run, number = straight(trial.turn(NAMES)), trial.turn((signal.SIGTERM, signal.SIGUSR1))
        ranks = trial.turn((range(run.ranks), [random.randrange(run.ranks)]))
        with trial:
            folder, at = tmp_path / str(trial.number), moment(random, run)
            faults = [Fault(rank, "signal", number, event, at) for rank in ranks]
            if random.random() < 0.5:  # once more, while it saves
                second = random.choice((signal.SIGTERM, signal.SIGUSR1))
                faults.append(
                    Fault(random.randrange(run.ranks), "signal", second, SAVE, random.randrange(60))
                )
            ended = run.start(folder, faults)
            assert not ended.hung(), ended.told
            if ended.code is None and any(ended.is_starting(fault) for fault in ended.fired):
                assert not visible(folder), ended.told  # ended as any process that does not listen yet
            else:
                steps = len(measured(folder))
                assert ended.code == (REQUEUE if steps < STEPS else 0), ended.told
                assert visible(folder)[0] == steps, ended.told
                assert (folder / "checkpoints/latest").read_text() == f"step-{steps:08d}\n"
            run.finish(folder)
            shutil.rmtree(folder)
