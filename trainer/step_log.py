"""metrics.jsonl: a line for each step, whole or not there, cut where a run goes on from."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any

from configs.errors import ConfigError

METRICS = "metrics.jsonl"


def line_of(values: Mapping[str, Any]) -> str:
    """As it is written."""
    return json.dumps(_finite(dict(values)), ensure_ascii=False, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    """JSON knows no NaN and no infinity: null stands for them."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_lines(file: Path) -> list[dict[str, Any]]:
    """Whole lines of a log; none where there is no such file. A line that is being written is left out."""
    return [values for values, _ in _lines(file)] if file.is_file() else []


def keep_lines(file: Path, done: int) -> int:
    """Cut off what comes after a step; returns the last that is left, 0 where none is. Nothing is written anew, so that
    no kill leaves less than was there."""
    if not file.is_file():
        return 0
    kept = list(takewhile(lambda line: line[0]["step"] <= done, _lines(file)))
    os.truncate(file, sum(size for _, size in kept))
    return kept[-1][0]["step"] if kept else 0


def _lines(file: Path) -> Iterator[tuple[dict[str, Any], int]]:
    """The lines that were written to their end, and the bytes of each; up to one that a power cut has spoilt. Other
    line ends than ours may stand in texts."""
    for line in file.read_bytes().split(b"\n")[:-1]:
        try:
            yield json.loads(line), len(line) + 1
        except ValueError:
            return


def check_log(folder: Path, step: int, data_hash: str) -> None:
    """Raises ConfigError where metrics.jsonl has another data hash for `step` than the checkpoint of that step: then
    one of the two is not of this run."""
    file = folder / METRICS
    if not file.is_file():
        return
    for values, _ in _lines(file):
        if values.get("step") == step and values.get("data_hash", data_hash) != data_hash:
            raise ConfigError(
                f"{file}: step {step} has data hash {values['data_hash']}, but its checkpoint has {data_hash}: they "
                "are of different runs; move the log away, or name the right checkpoint in checkpoint.resume"
            )
