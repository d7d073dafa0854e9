"""What a run's plan predicts, and what its third step then shows."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from configs.gpus import GPUS, gpu_named
from configs.schema import Config
from configs.shapes import ModelShape
from trainer.metrics import StepReport
from trainer.parallel.grid import Grid
from trainer.plan.layouts import Choice, is_planned
from trainer.plan.setup import NETWORK_GBIT, Cluster
from trainer.plan.told import choice_json

PLAN = "plan.json"
COMPARED = 3
"""The step of a start whose time and memory are compared: the first two allocate, and set libraries up."""


@dataclass(frozen=True)
class Forecast:
    choice: Choice
    timed: bool
    """The device's type is known; else no time is predicted."""


def forecast(config: Config, shape: ModelShape, grid: Grid) -> Forecast | None:
    """The plan of the run that this rank is a part of; the same on all ranks. None for a schedule that is not
    planned."""
    if not is_planned(config):
        return None
    world = grid.layout.world_size
    cuda = grid.device.type == "cuda"
    gpu = gpu_named(torch.cuda.get_device_name(grid.device)) if cuda else None
    # As torchrun or DeepSpeed's launcher call it.
    per_node = int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("LOCAL_SIZE") or world)
    # Without a known type what is said of memory and traffic stays true: no time is asked for.
    cluster = Cluster(gpu or GPUS["h100"], world, per_node, NETWORK_GBIT * 1e9 / 8)
    return Forecast(Choice.of(config, shape, cluster, grid.layout), gpu is not None)


def write_forecast(forecast: Forecast | None, folder: Path) -> dict[str, Any]:
    """`plan.json` in a run's folder, and what stands in it; none, where there is no plan. Raises OSError."""
    if forecast is None:
        (folder / PLAN).unlink(missing_ok=True)  # of a start under another schedule
        return {}
    told = choice_json(forecast.choice, timed=forecast.timed)
    (folder / PLAN).write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    return told


def compared(forecast: Forecast | None, report: StepReport, grid: Grid) -> str:
    """Predicted against measured, in a line; empty without a plan or GPUs. Else it is a collective of all ranks.

    Time is the step's, memory the most that torch has allocated on any rank.
    """
    if forecast is None or grid.device.type != "cuda":
        return ""
    most = torch.tensor(
        float(torch.cuda.max_memory_allocated(grid.device)), dtype=torch.float64, device=grid.device
    )
    dist.all_reduce(most, dist.ReduceOp.MAX)
    choice, measured = forecast.choice, float(most)
    memory = _beside("memory of the fullest rank", choice.peak.torch / 1e9, measured / 1e9, "GB", ".1f")
    if not forecast.timed:
        return f"step {report.step}, predicted and measured: {memory}"
    seconds = choice.speed.time.total
    speed = _beside("tokens/s", report.tokens / seconds, report.tokens_per_second, "", ",.0f")
    time = _beside("step", seconds, report.step_seconds, "s", ".2f")
    return f"step {report.step}, predicted and measured: {speed}; {time}; {memory}"


def _beside(what: str, predicted: float, measured: float, unit: str, form: str) -> str:
    unit = unit and f" {unit}"
    return f"{what} {predicted:{form}}{unit} and {measured:{form}}{unit} ({measured / predicted - 1:+.0%})"
