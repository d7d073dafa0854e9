"""R14: wandb cannot be reached, hangs, fails or dies, at its start, while it is told of steps, or at the end."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
from lab import NAMES, Straight, last_records, measured
from trials import Trials

ROOT = Path(__file__).resolve().parents[2]
FAKE = {"PYTHONPATH": f"{ROOT / 'tests/fake_wandb'}:{ROOT}", "FAKE_SERVICE": "yes"}
NO_HOST = {"WANDB_BASE_URL": "https://wandb.invalid", "WANDB_API_KEY": "0" * 40}
"""wandb itself, and a name that no server of names knows."""
SERVICE = "wandb-core"
KILLED = "killed service"
OUTAGES: dict[str, Mapping[str, str]] = {
    "no DNS": NO_HOST,
    KILLED: {"WANDB_MODE": "offline"},
    **{
        f"{what} at {where}": FAKE | {f"FAKE_{where}": what}
        for where in ("INIT", "LOG", "FINISH")
        for what in ("hang", "raise", "die")
    },
}
GOES_FIRST = [name for name in OUTAGES if name.startswith(("raise", "die"))]
"""Where the fake one's service outlives it: wandb's own looks after whether its client is there."""
FINISH_S = 2.0
PROGRESS = "training_state/state.json"


def test_the_run_is_as_without_it(
    trials: Trials, straight: Callable[[str], Straight], tmp_path: Path
) -> None:
    held = "the run ends with 0, bit by bit the same; nothing of wandb's is left"
    for trial in trials("R14 wandb unreachable, hanging, failing, killed", held, few=3, of=33):
        random, name = trial.random, trial.turn(list(OUTAGES))
        run, folder = straight(trial.turn(NAMES)), tmp_path / str(trial.number)
        notes = tmp_path / f"{trial.number}-wandb"
        environment = {**OUTAGES[name], "FAKE_NOTES": str(notes)}
        mode = "offline" if name == KILLED else "online"
        beside = replace(run, task={**run.task, "environment": environment})
        with trial:
            killer = Killer(str(notes), random.uniform(0, 1))
            if name == KILLED:
                killer.start()
            ended = beside.start(folder, (), f"wandb.mode={mode}", f"wandb.finish_seconds={FINISH_S}")
            killer.over.set()
            assert ended.code == 0, f"{name}: {ended.told}"
            assert not ended.hung(), ended.told
            assert ended.seconds < run.seconds + FINISH_S + 8, f"{name}: {ended.seconds:.1f} s"
            assert measured(folder) == measured(run.folder)
            ours, theirs = (last_records(one) for one in (folder, run.folder))
            assert {**ours, PROGRESS: None} == {**theirs, PROGRESS: None}
            ours, theirs = (progress(one) for one in (folder, run.folder))
            assert ours.pop("wandb_id")
            assert theirs.pop("wandb_id") is None
            assert ours == theirs
            if name.startswith("hang"):
                assert "hangs" in notes.read_text()  # it came there
            assert killer.killed == (name == KILLED)
            _, left = psutil.wait_procs(started_for(str(notes)), timeout=0 if name in GOES_FIRST else 10)
            for process in left:
                process.kill()
            assert name in GOES_FIRST or not left, f"{name}: {left}"
            shutil.rmtree(folder)


class Killer(threading.Thread):
    """Kills the service that wandb starts for a run, some time after it is there."""

    def __init__(self, notes: str, after_s: float) -> None:
        super().__init__(daemon=True)
        self._notes, self._after_s = notes, after_s
        self.over = threading.Event()
        self.killed = False

    def run(self) -> None:
        while not self.over.wait(0.02):
            for process in started_for(self._notes):
                if SERVICE in process.name():
                    time.sleep(self._after_s)
                    process.kill()
                    self.killed = True
                    return


def started_for(notes: str) -> list[psutil.Process]:
    """Processes that are told to note there what they meet: a run's ranks, wandb's sender, and what that has begun."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("FAKE_NOTES") == notes and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def progress(folder: Path) -> dict[str, Any]:
    (newest,) = sorted((folder / "checkpoints").glob("step-*"))[-1:]
    return json.loads((newest / PROGRESS).read_text())
