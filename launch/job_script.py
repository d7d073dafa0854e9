"""A job script for Slurm. It starts the training once, on the job's first node, and that reaches the others."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

BATCH = "launch/batch.py"
SAVE_S = 900
"""Seconds before the end of its time at which a job is told to save and to be queued again."""


@dataclass(frozen=True)
class JobOptions:
    """What Slurm is asked for."""

    name: str
    nodes: int
    gpus_per_node: int
    """0: none, a job on CPUs."""
    time: str = "24:00:00"
    partition: str | None = None
    account: str | None = None
    save_s: int = SAVE_S
    others: tuple[str, ...] = ()
    """Further options of sbatch, `--qos=high`."""
    setup: tuple[str, ...] = ()
    """Lines of shell before the training, `module load cuda`."""


def job_script(options: JobOptions, python: str, batch: str, words: Sequence[str]) -> str:
    """The script's text. python, batch: paths of the interpreter and of launch/batch.py; words: config and overrides.

    `exec` makes the training the process that Slurm signals (`--signal=B:`) and whose exit code is the job's.
    """
    asked = [
        f"--job-name={options.name}",
        f"--nodes={options.nodes}",
        "--ntasks-per-node=1",
        *([f"--gpus-per-node={options.gpus_per_node}"] if options.gpus_per_node else []),
        "--exclusive",
        f"--time={options.time}",
        *([f"--partition={options.partition}"] if options.partition else []),
        *([f"--account={options.account}"] if options.account else []),
        f"--signal=B:USR1@{options.save_s}",
        "--requeue",
        "--open-mode=append",
        "--output=%x-%j.log",
        *options.others,
    ]
    lines = [
        "#!/bin/bash",
        *(f"#SBATCH {option}" for option in asked),
        *options.setup,  # as in any job script: what modules and conda source does not bear the next line
        "set -euo pipefail",
        f'exec {shlex.join([python, batch, *words])} "$@"',
    ]
    return "\n".join(lines) + "\n"
