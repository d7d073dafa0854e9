"""What benchmarks/checkpoint.py measures of reading and writing weights, each in a process of its own that prints a
line of JSON: `checkpoint_weights.py TASK FOLDER NUMBER`, not meant to be called by hand.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import torch
import torch.distributed as dist
import xxhash
from torch import nn

from configs.layout import Layout
from configs.shapes import SHAPES, ModelShape
from launch.init_model import init_model
from trainer.checkpoint.hf_export import write_shards
from trainer.checkpoint.hf_import import load_weights
from trainer.checkpoint.postponed import Postponed
from trainer.checkpoint.read_back import ReadBack
from trainer.checkpoint.shards import shard_plan
from trainer.model.names import Table, stage_table
from trainer.parallel.exchange import exchange
from trainer.parallel.grid import Grid, start_grid

BIG = ModelShape(
    vocab=32000,
    hidden=2048,
    intermediate=5504,
    layers=24,
    heads=16,
    kv_heads=16,
    head_dim=128,
    max_positions=4096,
)
"""1.35 billion parameters; read and written in bfloat16."""
TENSOR = 8
"""Tensor ranks that a model is loaded by."""
MOST_BYTES = 500_000_000
"""Of a weight file that is written."""
PIECE = 16 << 20
DEMO = Path(__file__).parents[1] / "configs" / "demo"


def make(folder: Path, _: int) -> dict[str, Any]:
    """The model, with random weights."""
    SHAPES["big"] = BIG
    init_model(folder / "big", "big", DEMO / "tokenizer", 1, "bfloat16", 5_000_000_000)
    return {"parameters": BIG.parameters(), "bytes": BIG.parameters() * 2}


class Memory:
    """Bytes resident beyond what was when this was made: private ones, and the peak, mapped pages of files included."""

    def __init__(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        self._before = self._look()

    def told(self) -> dict[str, int]:
        now = self._look()
        return {
            "peak": now["VmHWM"] - self._before["VmRSS"],
            "private": now["RssAnon"] - self._before["RssAnon"],
            "mapped": now["RssFile"] - self._before["RssFile"],
        }

    @staticmethod
    def _look() -> dict[str, int]:
        found = re.findall(
            r"^(VmHWM|VmRSS|RssAnon|RssFile):\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.M
        )
        return {name: int(size) << 10 for name, size in found}


def load_ours(folder: Path, rank: int) -> dict[str, Any]:
    """One tensor rank's slices into parameters made for them."""
    shape = ModelShape.from_folder(folder / "big")
    table = stage_table(shape, [range(shape.layers + 3)])
    memory, begun = Memory(), time.perf_counter()
    parameters = _empty(table, TENSOR, torch.bfloat16)
    load_weights(folder / "big", shape, table, parameters, rank, TENSOR)
    seconds = time.perf_counter() - begun
    shard = sum(parameter.nbytes for parameter in parameters.values())
    return {"seconds": seconds, "shard": shard, **memory.told()}


def load_transformers(folder: Path, _: int) -> dict[str, Any]:
    """The whole model; then a byte of each page of it looked at; then copied from mapped pages to its own memory."""
    model_class = _transformers_class()
    memory, begun = Memory(), time.perf_counter()
    model = model_class.from_pretrained(folder / "big", dtype=torch.bfloat16)
    returned = time.perf_counter()
    for parameter in model.parameters():
        parameter.detach().view(-1).view(torch.uint8)[::4096].sum()
    touched, mapped = time.perf_counter(), memory.told()
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    copied = time.perf_counter() - touched
    return {
        "returned": returned - begun,
        "touched": touched - begun,
        "copied": returned - begun + copied,
        "peak": mapped["peak"],
        "private": memory.told()["private"],
    }


def _empty(table: Table, tensor: int, dtype: torch.dtype) -> dict[str, nn.Parameter]:
    sizes = {name: [piece.slice_shape(tensor) for piece in pieces] for name, pieces in table.items()}
    return {
        name: nn.Parameter(torch.empty(sum(size[0] for size in held), *held[0][1:], dtype=dtype))
        for name, held in sizes.items()
    }


def _transformers_class() -> Any:
    from transformers import AutoModelForCausalLM, LlamaForCausalLM
    from transformers.utils.logging import disable_progress_bar

    assert LlamaForCausalLM  # imported before the clock starts
    disable_progress_bar()
    return AutoModelForCausalLM


class Writers:
    """The model's weight files written in several ways, by one process or by a few with a slice of each tensor."""

    def __init__(self, folder: Path, grid: Grid) -> None:
        self.out, self._grid, tensor = folder / "out", grid, grid.layout.tensor
        self._table = stage_table(BIG, [range(BIG.layers + 3)])
        self.plan = shard_plan(BIG, [(range(BIG.layers + 3),)], 2, grid.layout, MOST_BYTES)
        parameters = _empty(self._table, tensor, torch.float32)  # as a trainer holds them
        load_weights(folder / "big", BIG, self._table, parameters, grid.tensor_rank, tensor)
        self._masters = {name: parameter.detach() for name, parameter in parameters.items()}
        whole = BIG.tensors()
        self.sizes = [sum(torch.Size(whole[name]).numel() * 2 for name in shard.names) for shard in self.plan]
        self._bytes = memoryview(bytearray(0))
        self.ways: dict[str, Callable[[], None]] = {"ours": self.ours}
        if grid.is_main:
            self._bytes = torch.empty(max(self.sizes), dtype=torch.uint8).random_().numpy().data
            self.ways["raw"] = self.raw
        if tensor == 1:
            model = _transformers_class().from_pretrained(folder / "big", dtype=torch.bfloat16)
            for parameter in model.parameters():
                parameter.data = parameter.data.clone()  # no longer the file's own pages
            self.ways["raw_read_back"] = self.raw_read_back
            self.ways["transformers"] = lambda: model.save_pretrained(self.out, max_shard_size=MOST_BYTES)

    def ours(self) -> None:
        failures = Postponed(self.out / "given-up")
        tensor = self._grid.layout.tensor
        with ReadBack(self.out) as back:
            for first in range(0, len(self.plan), tensor):
                shards = dict.fromkeys(self.plan[first : first + tensor], self._masters)
                back.add(write_shards(self.out, shards, self._table, torch.bfloat16, self._grid, failures))
            failures.settle()
            back.settle()

    def raw(self) -> None:
        for i, size in enumerate(self.sizes):
            with open(self.out / f"{i}", "wb", buffering=0) as out:
                for start in range(0, size, PIECE):
                    out.write(self._bytes[start : min(start + PIECE, size)])
                os.fsync(out.fileno())

    def raw_read_back(self) -> None:
        """As far as the system lets go of what it has in memory, from the disk."""
        buffer = memoryview(bytearray(PIECE))
        self.raw()
        for i in range(len(self.sizes)):
            digest = xxhash.xxh3_128()
            with open(self.out / f"{i}", "rb", buffering=0) as source:
                os.posix_fadvise(source.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                while count := source.readinto(buffer):
                    digest.update(buffer[:count])


def write(folder: Path, rounds: int) -> dict[str, Any]:
    """Seconds of each way in turn, and the most memory that this process needed for it in any round."""
    grid = start_grid(Layout(tensor=int(os.environ["WORLD_SIZE"]), pipeline=1, data=1))
    writers = Writers(folder, grid)
    ways: list[str] = exchange(list(writers.ways), grid)[0]
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    peak = dict.fromkeys(ways, 0)
    for number in range(rounds):
        # Not in turn: what one way leaves in the system's memory is of use, or of harm, to the next.
        order = Random(number).sample(ways, len(ways))
        for name in order:
            if grid.is_main:
                shutil.rmtree(writers.out, ignore_errors=True)
                writers.out.mkdir()
                os.sync()
            dist.barrier()
            memory, begun = Memory(), time.perf_counter()
            writers.ways.get(name, lambda: None)()
            peak[name] = max(peak[name], memory.told()["peak"])
            dist.barrier()
            seconds[name].append(time.perf_counter() - begun)
    shutil.rmtree(writers.out, ignore_errors=True)
    return {"seconds": seconds, "peak": peak, "largest": max(writers.sizes), "files": len(writers.sizes)}


TASKS: dict[str, Callable[[Path, int], dict[str, Any]]] = {
    task.__name__: task for task in (make, load_ours, load_transformers, write)
}

if __name__ == "__main__":
    with contextlib.redirect_stdout(sys.stderr):
        answer = TASKS[sys.argv[1]](Path(sys.argv[2]), int(sys.argv[3]))
    print(json.dumps(answer))
