"""What a job script of Slurm runs: `agenttune train`, and what is to be done when it has ended.

A run that was told to stop is queued again, where the job is still one that runs. Curves that wandb kept offline are
sent, where it has a key. The exit code is the training's.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

if __name__ == "__main__":  # run by its path
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from configs.errors import REQUEUE, ConfigError
from configs.load import load_config
from launch.hosts import scontrol

_KILLED_S = 60.0
"""Within which Slurm ends a job that it queues again."""
_SYNC_S = 300.0
_IDLE = 3
"""Starts in a row without a checkpoint after which a job is not queued again: it would go on so for ever."""


def main(argv: Sequence[str]) -> int:
    from launch.cli import main as command

    settings = [word for word in argv if word != "--traceback"]
    try:
        more = resumes(settings, os.environ)
    except (ConfigError, OSError):
        more = []  # the training tells what is wrong
    before = _latest(settings)
    code = command(["train", *argv, *more])
    if code == REQUEUE:
        if idle_starts(settings, os.environ, before) < _IDLE:
            requeue(os.environ)
        else:
            print(
                f"agenttune: {_IDLE} starts in a row have saved nothing, so the job is not queued again; give it more "
                "time (--time, less --save-before, is what a start and a step have)",
                file=sys.stderr,
            )
    elif code != ConfigError.exit_code:
        sync_wandb([*settings, *more])
    return code


def resumes(argv: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    """What a job that was queued again is to be told in addition: to go on from its newest checkpoint, where it has
    saved one, though its first start was told to begin anew or elsewhere. Raises ConfigError and OSError.

    What `latest` was at the first start is noted in the run's folder.
    """
    config = load_config(argv[0], argv[1:])
    job = environment.get("SLURM_JOB_ID")
    if config.checkpoint.resume == "auto" or not job:
        return []
    folder, now = Path(config.run.output_dir), _latest(argv) or ""
    note = folder / f".job-{job}"
    if int(environment.get("SLURM_RESTART_COUNT", 0)) == 0:
        folder.mkdir(parents=True, exist_ok=True)
        note.write_text(now)
        return []
    return [] if not now or not note.exists() or note.read_text() == now else ["checkpoint.resume=auto"]


def idle_starts(argv: Sequence[str], environment: Mapping[str, str], before: str | None) -> int:
    """How many starts of this job in a row have left the newest checkpoint as it was, this one too; `before` is what it
    was. Counted in the run's folder; 0 outside a job of Slurm."""
    job = environment.get("SLURM_JOB_ID")
    if before is None or not job:
        return 0
    note = Path(load_config(argv[0], argv[1:]).run.output_dir) / f".job-{job}-idle"
    try:
        if _latest(argv) != before:
            note.unlink(missing_ok=True)
            return 0
        counted = note.read_text() if note.exists() else ""
        count = 1 + (int(counted) if counted.isdecimal() else 0)
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(str(count))
    except OSError:  # a full disk: nobody counts, and the job is queued again
        return 0
    return count


def _latest(argv: Sequence[str]) -> str | None:
    """What tells the newest checkpoint of a run from every other; None where its settings cannot be read."""
    try:
        latest = Path(load_config(argv[0], argv[1:]).run.output_dir) / "checkpoints" / "latest"
        return f"{latest.stat().st_mtime_ns} {latest.read_text()}" if latest.exists() else ""
    except (ConfigError, OSError):
        return None


def requeue(environment: Mapping[str, str]) -> None:
    """Queue this job again, which ends it, unless somebody ends it for good. Does nothing outside a job of Slurm."""
    job = environment.get("SLURM_JOB_ID")
    if not job:
        return
    try:
        state = re.search(r"\bJobState=(\S+)", scontrol("show", "job", job))
        if not state or state[1] != "RUNNING":
            return  # it is cancelled, or queued again already
        print(f"agenttune: job {job} is queued again, to go on", file=sys.stderr, flush=True)
        # By which Slurm ends this process: as long as it lives the job is not in the queue.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        scontrol("requeue", job)
    except ConfigError as error:
        print(f"agenttune: {error}", file=sys.stderr)
        return
    time.sleep(_KILLED_S)


def sync_wandb(command_line: Sequence[str]) -> None:
    """Send what wandb kept offline. That it cannot be sent is told and changes nothing else."""
    config = load_config(command_line[0], command_line[1:])
    kept = sorted(
        folder
        for folder in (Path(config.run.output_dir) / "wandb").glob("offline-run-*")
        if not any(folder.glob("*.synced"))
    )
    if not kept or config.wandb.mode == "disabled":
        return
    by_hand = f"wandb sync {config.run.output_dir}/wandb/offline-run-*"
    if not _has_key():
        print(
            f"agenttune: wandb kept {len(kept)} run(s) offline; where there is a key, send with `{by_hand}`",
            file=sys.stderr,
        )
        return
    try:
        subprocess.run(
            [sys.executable, "-m", "wandb", "sync", *map(str, kept)],
            check=True,
            timeout=_SYNC_S,
            stdout=sys.stderr,
        )
        if any(not any(folder.glob("*.synced")) for folder in kept):  # it ends with 0 though
            raise OSError("see what wandb says above")
    except (OSError, subprocess.SubprocessError) as error:
        print(
            f"agenttune: wandb's runs could not be sent ({error}); send them with `{by_hand}`",
            file=sys.stderr,
        )


def _has_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        import netrc

        return any("wandb" in host for host in netrc.netrc().hosts)
    except (OSError, ValueError):
        return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
