"""What a run's folder holds, read for its report. A file that is not there, or not whole yet, is done without."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from trainer.checkpoint.store import folders_of
from trainer.step_log import METRICS, read_lines


@dataclass(frozen=True)
class Checkpoint:
    name: str
    bytes: int


@dataclass(frozen=True)
class RunFiles:
    """steps and evaluations: lines of metrics.jsonl and evaluations.jsonl; the others as JSON holds them."""

    folder: Path
    steps: list[dict[str, Any]]
    evaluations: list[dict[str, Any]]
    settings: str
    """config.yaml as it is written."""
    plan: dict[str, Any]
    start: dict[str, float]
    summary: dict[str, Any]
    checkpoints: list[Checkpoint]
    quarantined: int
    errors: list[str]
    """The last line of each rank's log that ends with an error."""


def read_run(folder: Path) -> RunFiles:
    """Raises OSError where metrics.jsonl cannot be read."""
    config, plan = folder / "config.yaml", _object(folder / "plan.json")
    return RunFiles(
        folder=folder,
        steps=read_lines(folder / METRICS),
        evaluations=read_lines(folder / "evaluations.jsonl"),
        settings=config.read_text(encoding="utf-8") if config.is_file() else "",
        plan=plan,
        start=_object(folder / "start.json"),
        summary=_object(folder / "summary.json"),
        checkpoints=[
            Checkpoint(found.name, sum(file.stat().st_size for file in found.rglob("*") if file.is_file()))
            for found in folders_of(folder / "checkpoints")
        ],
        quarantined=len(read_lines(folder / "quarantine.jsonl")),
        errors=list(_errors(folder / "logs", plan)),
    )


def _object(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _errors(logs: Path, plan: dict[str, Any]) -> Iterator[str]:
    """A rank's log begins each start with a line; what is last may be an error of an earlier one, which is past. So is
    the log of a rank that the newest start, whose plan this is, does not have."""
    layout = plan.get("layout")
    ranks = prod(layout.values()) if layout else None
    for log in sorted(logs.glob("rank-*.log"))[:ranks]:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        newest = max((i for i, line in enumerate(lines) if " begins: process " in line), default=-1)
        if any(line.startswith("Traceback ") for line in lines[newest + 1 :]):
            yield f"{log.stem}: {lines[-1]}"
