"""What the engine costs over a bare PyTorch loop: the same layers, rows and optimizer in both, one process.

`python benchmarks/step_overhead.py [--pairs 7]` takes steps of both in turn and prints medians and the
ratios of the pairs, by the clock and by processor time (steadier on a shared machine); `--record` writes them to
benchmarks/results/step_overhead.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from configs.check import check_config
from configs.schema import (
    BatchConfig,
    Config,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    RunConfig,
    SourceConfig,
    TrainConfig,
    WandbConfig,
)
from configs.shapes import ModelShape
from trainer.build import build_run
from trainer.data.micro_batch import GlobalBatch, at_targets, global_batches
from trainer.guard import Guard
from trainer.loop import Run
from trainer.model.layers import Parts
from trainer.model.stack import llama_layers
from trainer.optimizer import make_adamw
from trainer.step import train_step

SHAPE = ModelShape(
    vocab=1201, hidden=512, intermediate=1408, layers=6, heads=8, kv_heads=4, head_dim=64, max_positions=4096
)
DEMO = Path(__file__).parents[1] / "configs" / "demo"
RESULTS = Path(__file__).with_name("results") / "step_overhead.json"


class Seconds(NamedTuple):
    clock: float
    processor: float

    @classmethod
    def now(cls) -> Seconds:
        return cls(time.perf_counter(), time.process_time())

    def __sub__(self, other: Seconds) -> Seconds:
        return Seconds(self.clock - other.clock, self.processor - other.processor)


def settings(folder: Path) -> Config:
    """One process, four rows of 1024 tokens, float32."""
    sources = [
        SourceConfig("agent", str(DEMO / "agent.jsonl"), "agent"),
        SourceConfig("general", str(DEMO / "general.jsonl"), "general"),
    ]
    return Config(
        run=RunConfig(str(folder / "run"), 1),
        model=ModelConfig(str(folder / "model"), "float32"),
        data=DataConfig(sequence_length=1024, sources=sources, eta=0.5),
        batch=BatchConfig(rows=4, micro_rows=1),
        train=TrainConfig(steps=1000),
        optimizer=OptimizerConfig(lr=1e-5, schedule="constant", warmup_ratio=0.0),
        wandb=WandbConfig("disabled"),
    )


def bare_step(
    layers: list[nn.Module], run: Run, optimizer: torch.optim.Optimizer, batch: GlobalBatch
) -> None:
    """The step as one writes it without an engine: forward, backward, clip, update."""
    loss = run.parts.loss
    loss.scale = 1 / batch.targets
    for micro in batch.micro_batches(0, 1, 1):
        stream: object = (micro.tokens, micro.positions)
        for layer in layers:
            stream = layer(stream)
        loss(stream, at_targets(micro.labels, micro.groups)).backward()  # pyright: ignore[reportArgumentType]
    nn.utils.clip_grad_norm_([p for layer in layers for p in layer.parameters()], 1.0)
    optimizer.step()
    optimizer.zero_grad()


def measure(run: Run, pairs: int) -> Iterator[tuple[Seconds, Seconds]]:
    """A bare step and an engine's step on the same batch, in turn; the first pair warms up and is left out."""
    parts = run.parts
    layers = [spec.build() for spec in llama_layers(Parts(SHAPE, parts.grid, torch.float32))]
    for layer, twin in zip(layers, parts.engine.module.forward_funcs, strict=True):
        layer.load_state_dict(twin.state_dict())
    optimizer = make_adamw([p for layer in layers for p in layer.parameters()], parts.config.optimizer)
    head = parts.engine.parameters()[f"{SHAPE.layers + 2}.weight"]
    batches = global_batches(run.stream, parts.config.batch.rows)
    for step in range(1, pairs + 2):
        batch = next(batches)
        parts.loss.bind_head(layers[-1].get_parameter("weight"))
        begun = Seconds.now()
        bare_step(layers, run, optimizer, batch)
        middle = Seconds.now()
        parts.loss.bind_head(head)
        train_step(parts, batch, step, Guard())
        if step > 1:
            yield middle - begun, Seconds.now() - middle


def write_model(folder: Path) -> None:
    """A random model of SHAPE with the demo's tokenizer."""
    torch.manual_seed(1)
    config = SHAPE.hf_config(dtype="float32")
    LlamaForCausalLM(LlamaConfig(**config)).save_pretrained(folder)
    for file in (DEMO / "tokenizer").iterdir():
        shutil.copyfile(file, folder / file.name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    os.environ.setdefault("MASTER_PORT", "29533")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_model(folder / "model")
        config = settings(folder)
        run = build_run(config, check_config(config, SHAPE, None, 1))
        times = list(measure(run, options.pairs))
    result: dict[str, object] = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}",
        "parameters": SHAPE.parameters(),
        "pairs": len(times),
    }
    for kind in Seconds._fields:
        bare, engine = ([getattr(pair[i], kind) for pair in times] for i in (0, 1))
        ratios = sorted(e / b for b, e in zip(bare, engine, strict=True))
        result[kind] = {
            "bare_seconds": round(statistics.median(bare), 3),
            "engine_seconds": round(statistics.median(engine), 3),
            "ratio_median": round(statistics.median(ratios), 4),
            "ratio_min": round(ratios[0], 4),
            "ratio_max": round(ratios[-1], 4),
        }
    print(json.dumps(result, indent=2))
    if options.record:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
