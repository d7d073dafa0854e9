"""What benchmarks/checkpoint.py measures of saving while a model is trained, in a process of its own that prints a
line of JSON: `checkpoint_training.py train FOLDER NUMBER`, not meant to be called by hand.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import statistics
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from configs.check import check_config
from configs.schema import (
    BatchConfig,
    CheckpointConfig,
    Config,
    DataConfig,
    ModelConfig,
    RunConfig,
    SourceConfig,
    TrainConfig,
    WandbConfig,
)
from configs.shapes import SHAPES, ModelShape
from launch.init_model import init_model
from trainer.build import build_run
from trainer.data.micro_batch import global_batches
from trainer.guard import Guard
from trainer.loop import save, saver_of
from trainer.step import train_step

SHAPE = ModelShape(
    vocab=1201,
    hidden=1024,
    intermediate=2752,
    layers=16,
    heads=16,
    kv_heads=16,
    head_dim=64,
    max_positions=4096,
)
"""0.2 billion, trained in float32."""
STEPS = 3
"""Undisturbed steps before a checkpoint."""
DEMO = Path(__file__).parents[1] / "configs" / "demo"


def train(folder: Path, rounds: int) -> dict[str, Any]:
    """Steps undisturbed and while a checkpoint is written in the background, and how long either kind of saving holds
    the loop up."""
    SHAPES["trained"] = SHAPE
    init_model(folder / "trained", "trained", DEMO / "tokenizer", 1, "float32", 5_000_000_000)
    config = Config(
        run=RunConfig(str(folder / "run"), 1),
        model=ModelConfig(str(folder / "trained"), "float32"),
        data=DataConfig(
            sequence_length=128,
            sources=[
                SourceConfig("agent", str(DEMO / "agent.jsonl"), "agent"),
                SourceConfig("general", str(DEMO / "general.jsonl"), "general"),
            ],
            eta=0.5,
        ),
        batch=BatchConfig(rows=1),
        train=TrainConfig(steps=1000),
        checkpoint=CheckpointConfig(keep=1, resume="never"),
        wandb=WandbConfig("disabled"),
    )
    run = build_run(config, check_config(config, SHAPE, None, 1))
    saver, batches, guard, number = saver_of(run), global_batches(run.stream, 1), Guard(), 0

    def step() -> float:
        nonlocal guard, number
        number, begun = number + 1, time.perf_counter()
        guard = train_step(run.parts, next(batches), number, guard).guard
        return time.perf_counter() - begun

    def held_up(*, ends: bool) -> float:
        begun = time.perf_counter()
        save(run, saver, number, run.stream.state(), guard, ends=ends)
        return time.perf_counter() - begun

    step()
    taken: list[Mapping[str, Any]] = []
    for _ in range(rounds):
        alone = statistics.median([step() for _ in range(STEPS)])
        begun, background, beside = time.perf_counter(), held_up(ends=False), []
        while not any(saver.news()):
            beside.append(step())
        written = time.perf_counter() - begun
        lost = background + sum(seconds - alone for seconds in beside)
        at_once = held_up(ends=True)
        list(saver.news())
        taken.append(
            {
                "step_alone": alone,
                "step_beside": statistics.median(beside),
                "held_up_background": background,
                "held_up_at_once": at_once,
                "lost_background": lost,
                "written_background": written,
            }
        )
    shutil.rmtree(folder / "run")
    return {
        "parameters": SHAPE.parameters(),
        "seconds": {name: [each[name] for each in taken] for name in taken[0]},
    }


if __name__ == "__main__":
    with contextlib.redirect_stdout(sys.stderr):
        answer = train(Path(sys.argv[2]), int(sys.argv[3]))
    print(json.dumps(answer))
