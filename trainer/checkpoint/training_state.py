"""What a resumed run needs beside the weights: float32 weights, moments, the stream's place, the step.

`training_state/stage-00-tensor-00.safetensors` holds each tensor rank's slices under Hugging Face names
(`model.norm.weight/exp_avg`); `training_state/state.json` the rest. Nothing is pickled.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import load_file

from trainer.checkpoint.progress import FOLDER, STATE, Progress
from trainer.checkpoint.tensors import save_tensors
from trainer.model.names import Table, row_offsets
from trainer.parallel.engine import MOMENTS, Engine
from trainer.parallel.grid import Grid

KINDS = ("master", *MOMENTS)


def state_file(folder: Path, grid: Grid) -> Path:
    return folder / FOLDER / f"stage-{grid.stage:02d}-tensor-{grid.tensor_rank:02d}.safetensors"


def write_training_state(folder: Path, engine: Engine, table: Table, grid: Grid, progress: Progress) -> None:
    """Write this rank's slices (the first data rank's do) and, on rank 0, the progress. A collective.

    Nothing is written, so nothing can fail on one rank alone, before the last of its steps that need all ranks.
    """
    tensors: dict[str, torch.Tensor] = {}
    parameters = engine.parameters()
    engine.link_moments()
    for name, pieces in table.items():
        state = engine.read_state(parameters[name])
        if grid.data_rank != 0:
            continue  # every data rank is needed to put a state together, one of them to write it
        for piece, offset in zip(pieces, row_offsets(pieces, grid.layout.tensor), strict=True):
            rows = slice(offset, offset + piece.slice_shape(grid.layout.tensor)[0])
            tensors |= {f"{piece.name}/{kind}": state[kind][rows].contiguous() for kind in KINDS}
    if grid.data_rank == 0:
        save_tensors(tensors, state_file(folder, grid))
    if grid.is_main:
        text = json.dumps(asdict(progress), indent=2) + "\n"
        (folder / FOLDER / STATE).write_text(text, encoding="utf-8")


def read_training_state(folder: Path, engine: Engine, table: Table, grid: Grid, steps: int) -> None:
    """Put back weights and moments as they were after `steps` steps, on the layout that wrote them."""
    tensors = load_file(state_file(folder, grid))
    states = {
        name: {kind: torch.cat([tensors[f"{piece.name}/{kind}"] for piece in pieces]) for kind in KINDS}
        for name, pieces in table.items()
    }
    engine.write_state(states, steps)
