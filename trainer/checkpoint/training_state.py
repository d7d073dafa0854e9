"""What a resumed run needs beside the weights: float32 weights, moments, the stream's place, the step.

`training_state/` holds beside each weight file's name, in `model-00001-of-00004-tensor-00.safetensors`, a tensor rank's
parts of its float32 weights and moments, under Hugging Face names (`model.norm.weight/exp_avg`), in `tensors.json`
which part of which tensor is where, in `state.json` the rest. Nothing is pickled, and nothing depends on the layout of
the run that goes on from it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path

import torch

from trainer.checkpoint.manifest import Records
from trainer.checkpoint.progress import FOLDER, STATE, TENSORS, Progress
from trainer.checkpoint.shards import Shard, own_shards
from trainer.checkpoint.slices import KINDS, Part, PartReader, Parts, cut_parts, state_file
from trainer.checkpoint.tensors import write_tensors, write_text
from trainer.model.names import Table
from trainer.parallel.engine import Engine
from trainer.parallel.grid import Grid
from trainer.watchdog import beat

State = Mapping[str, Mapping[str, torch.Tensor]]
"""By parameter, this rank's slice of its float32 weights and moments, on the CPU."""


@dataclass(frozen=True)
class Snapshot:
    """A copy of what this rank writes of one shard; training may go on."""

    shard: Shard
    state: State


def snapshots(engine: Engine, plan: Sequence[Shard], grid: Grid) -> Iterator[Snapshot]:
    """This rank's shards one after another, read as they are asked for; a collective of the data group."""
    parameters = engine.parameters()
    for shards in own_shards(plan, grid.stage, grid.layout.data):
        own: list[Snapshot] = []
        for shard in shards:
            # Every data rank is needed to put a state together, one of them to write it.
            mine = shard.data_rank == grid.data_rank
            read = {name: engine.read_state(parameters[name], mine) for name in shard.parameters}
            own += [Snapshot(shard, read)] if mine else []
            del read
        while own:
            yield own.pop()  # held by nobody here while the next is read


def write_parts(folder: Path, snapshot: Snapshot, table: Table, grid: Grid) -> Records:
    """Write this tensor rank's parts of a shard's state. Raises OSError."""
    tensors = {
        f"{of}/{kind}": part
        for name in snapshot.shard.parameters
        for kind in KINDS
        for of, part in cut_parts(
            snapshot.state[name][kind], table[name], grid.tensor_rank, grid.layout.tensor
        )
    }
    if not tensors:
        return {}
    name = f"{FOLDER}/{state_file(snapshot.shard, grid.tensor_rank)}"
    return {name: write_tensors(folder / name, tensors)}


def write_progress(folder: Path, parts: Parts, progress: Progress) -> Records:
    """Write where the parts are, and the progress. Raises OSError."""
    listed = {name: [astuple(part) for part in held] for name, held in parts.items()}
    texts = {TENSORS: json.dumps(listed), STATE: json.dumps(asdict(progress), indent=2)}
    return {
        f"{FOLDER}/{name}": write_text(folder / FOLDER / name, text + "\n") for name, text in texts.items()
    }


def read_training_state(folder: Path, engine: Engine, table: Table, grid: Grid, updates: int) -> None:
    """Put back weights and moments as they were after so many updates, on whatever layout."""
    listed = json.loads((folder / FOLDER / TENSORS).read_text(encoding="utf-8"))
    parts = {name: [Part(*part) for part in held] for name, held in listed.items()}
    with PartReader(folder / FOLDER, parts) as reader:

        def state(name: str, kind: str) -> torch.Tensor:
            beat()
            where = (grid.tensor_rank, grid.layout.tensor)
            return torch.cat([reader.read(piece, kind, *where) for piece in table[name]])

        engine.write_state(state, updates)
