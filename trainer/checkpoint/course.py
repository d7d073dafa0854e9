"""What a run's folder holds when a run begins in it: that of the course that goes on, the rest put aside."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from configs.schema import Config
from trainer.checkpoint.choice import goes_on, own_name
from trainer.checkpoint.manifest import flush
from trainer.checkpoint.store import LATEST, folders_of, left_name, name_latest, named_latest, put_aside
from trainer.evaluations import EVALUATIONS

LOGS = ("metrics.jsonl", EVALUATIONS, "quarantine.jsonl")


class Taken(NamedTuple):
    """What a run goes on from."""

    own: bool
    """A checkpoint of its own."""
    same: bool
    """And not one that it was told to go back to: its course goes on."""
    told: str
    """What was put aside, and why."""


def take_up(config: Config, resumed: Path | None) -> Taken:
    """Make the run's folder that of the checkpoint that it goes on from, None for a fresh start. By rank 0, once all is
    read.

    `latest` comes to name that checkpoint, where it is the run's own: what is newer, of a course that is left or
    damaged, is put aside with the next that is saved, and a start before that finds the same one. The logs of another
    course are kept beside those that begin.
    """
    output = Path(config.run.output_dir)
    checkpoints = output / "checkpoints"
    if config.checkpoint.resume == "never":
        left = _put_aside([*_logs(output), *reversed(folders_of(checkpoints))], checkpoints)
        return Taken(
            False, False, left and f"checkpoint.resume=never: of the run before {output} keeps {left}"
        )
    name = own_name(config, resumed) if resumed else ""
    if not name:
        left = _put_aside(_logs(output), checkpoints)
        how = f"with {resumed}" if resumed else f"afresh, with no checkpoint in {checkpoints}"
        return Taken(False, False, left and f"the run begins {how}; of the one before {output} keeps {left}")
    before = named_latest(checkpoints) or folders_of(checkpoints)[0].name
    same = goes_on(config) or before == name
    left = "" if same else ", ".join(shutil.copyfile(log, left_name(log)).name for log in _logs(output))
    if before != name:
        name_latest(checkpoints, name)
    told = (
        f"taken up at {name} instead of {before}: what is newer is put aside when the next is saved, from which "
        f"checkpoint.resume=auto goes on{left and f'; the log until now is kept as {left}'}"
    )
    return Taken(True, same, "" if same else told)


def _put_aside(paths: Sequence[Path], checkpoints: Path) -> str:
    """Rename logs and checkpoints, so that none is taken for the run's that begins in their place.

    Returns what they are called now. Whatever is left where this is killed is a checkpoint in force with its log or
    none, and the newest one to the last.
    """
    (checkpoints / LATEST).unlink(missing_ok=True)
    aside = [put_aside(path) for path in paths]
    for folder in {path.parent for path in aside}:
        flush(folder)
    return ", ".join(path.name for path in aside)


def _logs(output: Path) -> list[Path]:
    return [output / name for name in LOGS if (output / name).is_file() and (output / name).stat().st_size]
