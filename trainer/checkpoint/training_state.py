"""What a resumed run needs beside the weights: float32 weights, moments, the stream's place, the step.

`training_state/stage-00-tensor-00.safetensors` holds each tensor rank's slices under Hugging Face names
(`model.norm.weight/exp_avg`); `training_state/state.json` the rest. Nothing is pickled.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from configs.layout import Layout
from trainer.model.names import Table, row_offsets
from trainer.parallel.engine import MOMENTS, Engine
from trainer.parallel.grid import Grid

KINDS = ("master", *MOMENTS)
FOLDER = "training_state"


@dataclass(frozen=True)
class Progress:
    """Where a run stands after `step` optimizer steps."""

    step: int
    steps: int
    cursor: dict[str, Any]
    """The stream's place after the last row of that step."""
    layout: Layout
    wandb_id: str | None = None


def state_file(folder: Path, grid: Grid) -> Path:
    return folder / FOLDER / f"stage-{grid.stage:02d}-tensor-{grid.tensor_rank:02d}.safetensors"


def write_training_state(folder: Path, engine: Engine, table: Table, grid: Grid, progress: Progress) -> None:
    """Write this rank's slices (the first data rank's do) and, on rank 0, the progress. A collective."""
    tensors: dict[str, torch.Tensor] = {}
    parameters = engine.parameters()
    for name, pieces in table.items():
        state = engine.read_state(parameters[name])
        for piece, offset in zip(pieces, row_offsets(pieces, grid.layout.tensor), strict=True):
            rows = slice(offset, offset + piece.slice_shape(grid.layout.tensor)[0])
            tensors |= {f"{piece.name}/{kind}": state[kind][rows].contiguous() for kind in KINDS}
    if grid.data_rank == 0:
        save_file(tensors, state_file(folder, grid), metadata={"format": "pt"})
    if grid.is_main:
        text = json.dumps(asdict(progress), indent=2) + "\n"
        (folder / FOLDER / "state.json").write_text(text, encoding="utf-8")


def read_progress(folder: Path) -> Progress:
    """Raises ValueError where the folder holds no training state."""
    file = folder / FOLDER / "state.json"
    if not file.is_file():
        raise ValueError(
            f"{folder} has no {FOLDER}/state.json: it is no checkpoint to resume; set model.path to it"
        )
    values = json.loads(file.read_text(encoding="utf-8"))
    return Progress(**values | {"layout": Layout(**values["layout"])})


def read_training_state(folder: Path, engine: Engine, table: Table, grid: Grid, progress: Progress) -> None:
    """Put weights and moments back. Raises ValueError for a checkpoint of another layout."""
    saved, wanted = progress.layout, grid.layout
    if (saved.tensor, saved.pipeline) != (wanted.tensor, wanted.pipeline):
        raise ValueError(
            f"{folder} was written with tensor {saved.tensor} x pipeline {saved.pipeline}, this run has tensor "
            f"{wanted.tensor} x pipeline {wanted.pipeline}: resume with the former, or start from its weights "
            f"with model.path={folder} checkpoint.resume=never"
        )
    tensors = load_file(state_file(folder, grid))
    states = {
        name: {kind: torch.cat([tensors[f"{piece.name}/{kind}"] for piece in pieces]) for kind in KINDS}
        for name, pieces in table.items()
    }
    engine.write_state(states, progress.step)
