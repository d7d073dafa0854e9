"""What a run's folder holds when a run begins in it: that of the course that goes on, the rest put aside."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

from configs.schema import Config
from trainer.checkpoint.choice import goes_on
from trainer.checkpoint.manifest import flush
from trainer.checkpoint.store import LATEST, folders_of, left_name, name_latest, named_latest, put_aside

LOGS = ("metrics.jsonl", "quarantine.jsonl")


class Taken(NamedTuple):
    same: bool
    """The run's own course goes on: not one gone back on, nor one begun from another run's checkpoint."""
    told: str
    """What was put aside, and why."""


def take_up(config: Config, resumed: Path | None) -> Taken:
    """Make the run's folder that of the checkpoint that it goes on from, None for a fresh start. By rank 0, once all is
    read.

    `latest` comes to name that checkpoint, where it is the run's own: what is newer, of a course that is left or
    damaged, is put aside with the next that is saved, and a start before that finds the same one. The log of another
    course is kept beside the one that begins.
    """
    output, resume = Path(config.run.output_dir), config.checkpoint.resume
    if resume == "never":
        left = put_all_aside(output)
        return Taken(False, left and f"checkpoint.resume=never: of the run before {output} keeps {left}")
    checkpoints = output / "checkpoints"
    if resumed is None or resumed.resolve().parent != checkpoints.resolve():
        left = _copy_logs(output)
        begins = "the run begins " + (
            f"with {resumed}" if resumed else f"afresh, with no checkpoint in {checkpoints}"
        )
        return Taken(False, left and f"{begins}; of the one before {output} keeps {left}")
    name = resumed.resolve().name
    before = named_latest(checkpoints) or folders_of(checkpoints)[0].name
    if goes_on(config) or before == name:
        if before != name:
            name_latest(checkpoints, name)
        return Taken(True, "")
    left = _copy_logs(output)
    name_latest(checkpoints, name)
    return Taken(
        False,
        f"gone back to {name}: newer checkpoints are put aside when the next is saved, from which "
        f"checkpoint.resume=auto goes on{left and f'; the log until now is kept as {left}'}",
    )


def put_all_aside(output: Path) -> str:
    """Rename a run's logs and checkpoints, so that none is taken for the run's that begins in their place.

    Returns what they are called now. Whatever is left where this is killed is a checkpoint in force with its log or
    none, and the newest one to the last.
    """
    checkpoints = output / "checkpoints"
    (checkpoints / LATEST).unlink(missing_ok=True)
    aside = [put_aside(path) for path in (*_logs(output), *reversed(folders_of(checkpoints)))]
    for folder in {path.parent for path in aside}:
        flush(folder)
    return ", ".join(path.name for path in aside)


def _logs(output: Path) -> list[Path]:
    return [output / name for name in LOGS if (output / name).is_file()]


def _copy_logs(output: Path) -> str:
    """They are cut to what the course that begins has in common with them."""
    full = [log for log in _logs(output) if log.stat().st_size]
    return ", ".join(shutil.copyfile(log, left_name(log)).name for log in full)
