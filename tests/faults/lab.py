"""Runs that faults come over, and the run that nothing happened to, to which they are compared."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from faults import BATCH, EVENTS, FIRED, SAID, Fault
from rank_pool import RankPool

from trainer.checkpoint.manifest import FileRecord, read_manifest
from trainer.checkpoint.store import name_latest, step_folder
from trainer.checkpoint.verify import verify

NAMES = ("TP2 files", "PP2", "DP2")
"""Of the layouts."""
STEPS = 4
"""Of each run, with a checkpoint after every one."""
_CLOCK = ("_seconds", "_per_second", "memory", "mfu")
_OWN = ("training_state/config.yaml",)
"""Of a checkpoint's files those that name the run's own folder."""


class Event(NamedTuple):
    """What a rank has noted, of a fault before it came, of anything else just before it was done."""

    rank: int
    event: str
    path: str
    at: float
    """By the clock that all processes share."""

    @property
    def step(self) -> int | None:
        """Whose checkpoint was being written, where it has no name of its own yet."""
        found = re.search(r"\.step-(\d+)\.partial", self.path)
        return int(found[1]) if found else None


@dataclass(frozen=True)
class Ended:
    """A start of a run, after all its ranks are gone."""

    outcomes: list[dict[str, Any]]
    """In the order in which the ranks ended."""
    events: list[Event]
    """In the order in which they were."""
    fired: list[Event]
    """Faults that came."""
    said: str

    @property
    def code(self) -> int | None:
        """The exit code that all ranks have; None where one raised or was killed."""
        codes = {outcome.get("value") for outcome in self.outcomes}
        return codes.pop() if len(codes) == 1 else None

    @property
    def seconds(self) -> float:
        return self._end - self.events[0].at

    @property
    def after_s(self) -> float:
        """From the first fault to the last rank's end."""
        return self._end - self.fired[0].at

    @property
    def _end(self) -> float:
        return max(outcome["ended"] for outcome in self.outcomes)

    def messages(self) -> dict[int, str]:
        """What each rank that failed says."""
        return {o["rank"]: o["message"] for o in self.outcomes if "error" in o}

    def hung(self) -> list[int]:
        """Ranks that trained, and did not end by themselves within ten seconds of another's end.

        A rank that waits for another which was killed before it had come is ended by its launcher alone.
        """
        trained = {event.rank for event in self.events if event.event == BATCH}
        return [o["rank"] for o in self.outcomes if o["hung"] and o["rank"] in trained]

    def is_starting(self, moment: Event) -> bool:
        """Whether its rank had not come to its first step yet."""
        begun = [e.at for e in self.events if e.rank == moment.rank and e.event == BATCH]
        return not begun or moment.at < begun[0]

    @property
    def saving(self) -> int:
        """The step whose checkpoint was being written when the first fault came: that of the last file of its rank
        that tells. What `latest` is to say is written before the folder has its name."""
        fault = self.fired[0]
        steps = [
            e.step for e in (*self.events, fault) if e.rank == fault.rank and e.at <= fault.at and e.step
        ]
        return max(steps, default=0)

    @property
    def named(self) -> int:
        """The newest step whose checkpoint the rank of the first fault had given its name before it came; else 0."""
        fault = self.fired[0]
        mine = [e for e in self.events if e.rank == fault.rank and e.event == "rename" and e.at < fault.at]
        return max((e.step for e in mine if e.step), default=0)

    @property
    def told(self) -> str:
        """All that is known of it, for the message of a trial that failed."""
        told = [f"rank {o['rank']}: {o.get('traceback') or o['value']}" for o in self.outcomes]
        return "\n".join([*(f"came: {fault}" for fault in self.fired), *told, self.said])


@dataclass(frozen=True)
class Straight:
    """A run that nothing happened to, with all its checkpoints, and how it is started."""

    pool: RankPool
    config: Path
    overrides: tuple[str, ...]
    ranks: int
    folder: Path
    task: Mapping[str, Any]
    """What `fault_tasks.train` is told beside settings and faults."""
    seconds: float = 0.0
    """It took."""
    events: Sequence[Event] = ()

    def calls(self, rank: int, event: str) -> int:
        """How often one of its ranks makes a call, in the last two of its saves."""
        found = [e for e in self.events if e.rank == rank and e.event == event]
        return len([e for e in found if e.step in (STEPS - 1, STEPS)])

    def start(
        self,
        run: Path,
        faults: Sequence[Fault] = (),
        *more: str,
        small: int | None = None,
        limit_s: float = 60,
    ) -> Ended:
        """Start it, or start it again, in another folder; `small` as in `rank_tasks.train_run`."""
        notes = run.with_name(f"{run.name}-notes")
        shutil.rmtree(notes, ignore_errors=True)
        notes.mkdir(parents=True)
        outcomes = self.pool.outcomes(
            "fault_tasks.train",
            self.ranks,
            limit_s=limit_s,
            config=str(self.config),
            overrides=[*self.overrides, *more, f"run.output_dir={run}"],
            faults=[asdict(fault) for fault in faults],
            notes=str(notes),
            small=small,
            **self.task,
        )
        said = "".join(file.read_text(errors="replace") for file in sorted(notes.glob(SAID.format("*"))))
        return Ended(outcomes, self._noted(notes, EVENTS), self._noted(notes, FIRED), said)

    def _noted(self, notes: Path, name: str) -> list[Event]:
        files = {rank: notes / name.format(rank) for rank in range(self.ranks)}
        events = [Event(rank, **values) for rank, file in files.items() for values in _lines(file)]
        return sorted(events, key=lambda event: event.at)

    def at(self, step: int, run: Path, *, keep: int = 1) -> Path:
        """A copy of it as it was when the checkpoint of `step` had been committed, with the `keep` last ones."""
        later = [f"step-{s:08d}" for s in range(1, STEPS + 1) if not step - keep < s <= step]
        shutil.copytree(self.folder, run, ignore=shutil.ignore_patterns(*later))
        lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
        (run / "metrics.jsonl").write_text("".join(lines[:step]))
        name_latest(run / "checkpoints", step_folder(Path(), step).name)
        return run

    def finish(self, run: Path, *more: str) -> None:
        """The same command once more takes the run to its end, which is this one's, bit by bit."""
        again = self.start(run, (), *more)
        assert again.code == 0, again.told
        self.compare(run)

    def compare(self, run: Path) -> None:
        """Losses, gradient norms, learning rates, data; weights, moments, cursor, random states: all the same."""
        assert measured(run) == measured(self.folder)
        ours, theirs = (last_records(folder) for folder in (run, self.folder))
        assert ours == theirs


def measured(run: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without what depends on the clock."""
    lines = _lines(run / "metrics.jsonl")
    return [{key: line[key] for key in line if not key.endswith(_CLOCK)} for line in lines]


def last_records(run: Path) -> dict[str, FileRecord]:
    """What the files of the last checkpoint hold, after each byte of it was checked."""
    folder = step_folder(run / "checkpoints", STEPS)
    list(verify(folder))
    return {name: record for name, record in read_manifest(folder).items() if name not in _OWN}


def visible(run: Path) -> list[int]:
    """Steps of the checkpoints that can be seen, all of which are whole, newest first."""
    folders = sorted((run / "checkpoints").glob("step-????????"), reverse=True)
    for folder in folders:
        list(verify(folder))
    return [int(folder.name[-8:]) for folder in folders]


def _lines(file: Path) -> list[Any]:
    """JSON of each line; the last one may have been cut by a kill."""
    if not file.is_file():
        return []
    return [json.loads(line) for line in file.read_text().split("\n")[:-1]]
