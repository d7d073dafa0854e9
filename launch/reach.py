"""The command that starts a host's agent there, by Slurm or by ssh, with this one's environment and folder."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping

AGENT = "launch.host"
EXPORTED = (
    "AGENTTUNE_",
    "CUDA_",
    "GLOO_",
    "HF_",
    "LD_LIBRARY_PATH",
    "NCCL_",
    "OMP_",
    "PYTHON",
    "TORCH_",
    "UCX_",
)
"""How the names begin of variables that ssh is to hand on. Keys are not among them: a command line is seen by all who
use the machine, and wandb reads its key from the home folder too."""
_HELD_BACK = ("CUDA_VISIBLE_DEVICES",)
"""Each host has its own."""


def reach(by: str, host: str, environment: Mapping[str, str]) -> list[str]:
    """by: `srun`, inside a job of Slurm, or `ssh`."""
    agent = [sys.executable, "-m", AGENT]
    if by == "srun":
        # A step of its own on each node: their ends are told apart. All of the node's part of the job is its own,
        # which srun would give one processor of to one task, and keep from the step if another had it.
        place = [
            "--nodes=1",
            "--ntasks=1",
            "--ntasks-per-node=1",
            f"--nodelist={host}",
            "--overlap",
            "--mem=0",
        ]
        cores = environment.get("SLURM_CPUS_PER_TASK") or environment.get("SLURM_CPUS_ON_NODE")
        place += [f"--cpus-per-task={cores}"] if cores else []
        return ["srun", "--quiet", "--unbuffered", "--export=ALL", *place, *agent]
    variables = [
        f"{name}={value}"
        for name, value in environment.items()
        if name.startswith(EXPORTED) and name not in _HELD_BACK and not _is_secret(name)
    ]
    there = f"cd {shlex.quote(os.getcwd())} && exec env {shlex.join([*sorted(variables), *agent])}"
    return ["ssh", "-o", "BatchMode=yes", host, there]


def _is_secret(name: str) -> bool:
    return any(part in name for part in ("TOKEN", "KEY", "SECRET", "PASSWORD"))
