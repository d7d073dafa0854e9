"""What a resumed run needs beside the weights: float32 weights, moments, the stream's place, the step.

`training_state/` holds in `stage-00-data-000-tensor-00.safetensors` a rank's parts of the tensors, under Hugging Face
names (`model.norm.weight/exp_avg`), in `tensors.json` which part of which tensor is where, in `state.json` the rest.
Nothing is pickled, and nothing depends on the layout of the run that goes on from it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, astuple
from pathlib import Path

import torch

from configs.shapes import ModelShape
from trainer.checkpoint.manifest import Records
from trainer.checkpoint.progress import FOLDER, STATE, TENSORS, Progress
from trainer.checkpoint.slices import KINDS, Part, PartReader, cut_parts, saved_parts, state_file, writers
from trainer.checkpoint.tensors import write_tensors, write_text
from trainer.model.names import Table, owned_table
from trainer.parallel.engine import Engine
from trainer.parallel.grid import Grid


def write_training_state(
    folder: Path, engine: Engine, shape: ModelShape, bounds: Sequence[int], grid: Grid, progress: Progress
) -> Records:
    """Write this rank's parts and, on rank 0, where they are and the progress. A collective.

    Nothing is written, so nothing can fail on one rank alone, before the last of its steps that need all ranks.
    Returns what this rank has written.
    """
    tensors: dict[str, torch.Tensor] = {}
    parameters = engine.parameters()
    writer = writers(shape, bounds, grid.stage, grid.layout.data)
    engine.link_moments()
    for name, pieces in owned_table(shape, bounds, grid.stage).items():
        state = engine.read_state(parameters[name])
        if grid.data_rank != writer[name]:
            continue  # every data rank is needed to put a state together, one of them to write it
        for kind in KINDS:
            parts = cut_parts(state[kind], pieces, grid.tensor_rank, grid.layout.tensor)
            tensors |= {f"{of}/{kind}": part for of, part in parts}
    written: Records = {}
    if tensors:
        name = f"{FOLDER}/{state_file(grid.stage, grid.data_rank, grid.tensor_rank)}"
        written[name] = write_tensors(folder / name, tensors)
    if grid.is_main:
        parts = saved_parts(shape, bounds, grid.layout)
        listed = {name: [astuple(part) for part in held] for name, held in parts.items()}
        texts = {TENSORS: json.dumps(listed), STATE: json.dumps(asdict(progress), indent=2)}
        for name, text in texts.items():
            written[f"{FOLDER}/{name}"] = write_text(folder / FOLDER / name, text + "\n")
    return written


def read_training_state(folder: Path, engine: Engine, table: Table, grid: Grid, steps: int) -> None:
    """Put back weights and moments as they were after `steps` steps, on whatever layout."""
    listed = json.loads((folder / FOLDER / TENSORS).read_text(encoding="utf-8"))
    parts = {name: [Part(*part) for part in held] for name, held in listed.items()}
    with PartReader(folder / FOLDER, parts) as reader:

        def state(name: str) -> dict[str, torch.Tensor]:
            where = (grid.tensor_rank, grid.layout.tensor)
            return {kind: torch.cat([reader.read(p, kind, *where) for p in table[name]]) for kind in KINDS}

        engine.write_state(state, steps)
