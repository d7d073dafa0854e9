"""How long each part of a start takes, from the command to the first optimizer step."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import psutil

BEGAN = "AGENTTUNE_BEGAN"
"""Environment variable: when the command began, seconds since 1970, told to the ranks that it starts."""

_phases: dict[str, float] = {}
_last = 0.0


def command_began() -> float:
    """When this command began; of a process that somebody else has started, when it did."""
    return float(os.environ.get(BEGAN) or psutil.Process().create_time())


def phase_done(name: str) -> None:
    """What was done since the phase before, or since this process began, was this. Phases of one name are added up."""
    global _last
    if not _phases:
        began = psutil.Process().create_time()
        _phases["checks, before ranks start"] = max(0.0, began - command_began())
        _last = began
    now = time.time()
    _phases[name] = _phases.get(name, 0.0) + now - _last
    _last = now


def write_phases(folder: Path) -> None:
    """`start.json` in a run's folder: seconds by phase of its newest start, in order. Raises OSError."""
    (folder / "start.json").write_text(json.dumps(_phases, indent=2) + "\n", encoding="utf-8")


def start_told() -> str:
    """In a line: what took a tenth of the time and more."""
    whole = sum(_phases.values()) or 1.0
    parts = [f"{name} {seconds:.1f} s" for name, seconds in _phases.items() if seconds > whole / 10]
    return f"first step {whole:.1f} s after the command: {', '.join(parts)}"
