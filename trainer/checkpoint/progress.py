"""Where a checkpointed run stands. No torch here: it is read before any rank starts."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.errors import ConfigError
from configs.layout import Layout

FOLDER = "training_state"
STATE = "state.json"


@dataclass(frozen=True)
class Progress:
    """The state after `step` optimizer steps, written to training_state/state.json."""

    step: int
    steps: int
    """Of the whole run, as planned when this was written."""
    cursor: dict[str, Any]
    """The stream's place after the last row of that step."""
    layout: Layout
    wandb_id: str | None = None


def read_progress(folder: Path, layout: Layout) -> Progress:
    """Raises ConfigError where the folder holds no training state, or one of another tensor x pipeline layout."""
    file = folder / FOLDER / STATE
    if not file.is_file():
        raise ConfigError(
            f"{folder} has no {FOLDER}/{STATE}: it is no checkpoint to resume; set model.path to it"
        )
    values = json.loads(file.read_text(encoding="utf-8"))
    progress = Progress(**values | {"layout": Layout(**values["layout"])})
    saved = progress.layout
    if (saved.tensor, saved.pipeline) != (layout.tensor, layout.pipeline):
        raise ConfigError(
            f"{folder} was written with tensor {saved.tensor} x pipeline {saved.pipeline}, this run has tensor "
            f"{layout.tensor} x pipeline {layout.pipeline}: resume with the former, or start from its weights "
            f"with model.path={folder} checkpoint.resume=never"
        )
    return progress
