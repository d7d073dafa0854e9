"""Runs that tasks of test ranks build, and what they do with them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed as dist

from configs.check import check_config
from configs.load import load_config
from configs.shapes import ModelShape
from tokenization.sample import TokenizedSample
from trainer.build import build_run
from trainer.checkpoint import saver, store
from trainer.data.micro_batch import GlobalBatch
from trainer.data.packing import pack_row
from trainer.guard import Guard
from trainer.loop import Run, save, saver_of
from trainer.step import train_step

Sample = dict[str, Any]
"""{"tokens": [int], "trained": [bool], "source": index}, and "kinds": [SpanKind] where they matter."""


def limit_shards(max_bytes: int | None) -> None:
    if max_bytes is not None:
        saver.shard_plan = partial(saver.shard_plan, most_bytes=max_bytes)


def built(config: str, overrides: Sequence[str], began_with: str | None = None) -> Run:
    settings = load_config(config, overrides)
    shape = ModelShape.from_folder(settings.model.path)
    return build_run(settings, check_config(settings, shape, None, None), model=began_with)


def take_steps(run: Run, batches: Iterator[GlobalBatch], steps: int) -> list[dict[str, Any]]:
    reports: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        report = train_step(run.parts, next(batches), step, Guard()).report
        reports.append(
            {
                "loss": report.loss,
                "grad_norm": report.grad_norm,
                "by_source": report.loss_by_source,
                "targets": report.targets,
                "seconds": report.step_seconds,
                "grad_norm_by_layer": report.grad_norm_by_layer,
                "weight_norm_by_layer": report.weight_norm_by_layer,
            }
        )
    return reports


def packed(samples: Sequence[Sample], index: int, length: int) -> Any:
    made = [
        TokenizedSample(
            source=str(sample["source"]),
            id=str(i),
            tokens=np.array(sample["tokens"], np.int32),
            trained=np.array(sample["trained"], np.bool_),
            kinds=np.array(sample.get("kinds", [0] * len(sample["tokens"])), np.uint8),
        )
        for i, sample in enumerate(samples)
    ]
    return pack_row(made, [s["source"] for s in samples], index=index, length=length, pad_id=0)


def exported(run: Run, folder: Path) -> None:
    """The Hugging Face folder of a checkpoint of the run as it stands."""
    save(run, saver_of(run), run.done, run.stream.state(), run.guard, ends=True)
    if run.parts.grid.is_main:
        store.step_folder(run.checkpoints, run.done).rename(folder)
        shutil.rmtree(run.checkpoints)  # the next run of this config begins afresh
    dist.barrier()
