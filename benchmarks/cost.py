"""The cost model of a step beside a measured one: `agenttune plan`'s own numbers, for the machine at hand."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from configs.gpus import Gpu
from configs.layout import Layout
from configs.schema import Config
from configs.shapes import ModelShape
from trainer.data.micro_batch import GlobalBatch
from trainer.data.open import open_stream
from trainer.data.rows import IGNORED
from trainer.plan.setup import Cluster, Setup
from trainer.plan.speed import REACHED, Rates, speed
from trainer.step import sample_lengths


def first_rows(config: Config, rows: int) -> GlobalBatch:
    stream = open_stream(config)
    return GlobalBatch(tuple(next(stream) for _ in range(rows)))


def attended(config: Config, rows: int) -> float:
    """Mean over places of the tokens of their sample, in the first rows."""
    lengths = sample_lengths(first_rows(config, rows))
    return sum(length * length for length in lengths) / (rows * config.data.sequence_length)


def predicted(
    config: Config, shape: ModelShape, gpu: Gpu, measured: float, rows: int, reached: Rates = REACHED
) -> dict[str, Any]:
    """FLOPs, bytes, least seconds and parts of the time that the model gives a step of one device, beside `measured`.

    The stream's first `rows` rows say how long samples are and how many places have a target.
    """
    batch = first_rows(config, rows)
    places = rows * config.data.sequence_length
    setup = replace(
        Setup.of(config, shape, Layout(1, 1, 1), Cluster(gpu, 1, 1, 1e9)),
        samples=tuple(sample_lengths(batch)),
        counted_rows=rows,
        targets=sum(int((row.labels != IGNORED).sum()) for row in batch.rows) / places,
    )
    told = speed(setup, reached)
    mfu = told.mfu * told.time.total / measured  # as `StepReport.mfu` counts it: the head at every place
    unused = 6.0 * shape.vocab * shape.hidden * (1 - setup.targets) * setup.rows * setup.length
    return {
        "device_flops": gpu.flops,
        "device_bandwidth": gpu.memory_bandwidth,
        "flops": told.flops,
        "moved_bytes": told.moved,
        "floor_seconds": round(told.floor, 4),
        "predicted_seconds": round(told.time.total, 4),
        "measured_seconds": measured,
        "measured_over_predicted": round(measured / told.time.total, 3),
        "parts": {name: round(value, 4) for name, value in asdict(told.time).items() if value},
        "targets_share": round(setup.targets, 3),
        "mfu": round(mfu, 4),
        "mfu_at_targets": round(mfu - unused / measured / gpu.flops, 4),
        "model_flops_per_second": mfu * gpu.flops,
        "tokens_per_second": round(told.tokens_per_second * told.time.total / measured, 1),
    }


def measured_cpu(like: Gpu) -> Gpu:
    """This CPU as the cost model sees a device: what one thread reaches in a product and in a copy."""
    import time

    import torch

    def best(run: Any, times: int = 5) -> float:
        taken = []
        for _ in range(times):
            begun = time.perf_counter()
            run()
            taken.append(time.perf_counter() - begun)
        return min(taken)

    torch.set_num_threads(1)
    a, b = torch.randn(1536, 1536), torch.randn(1536, 1536)
    product = 2 * 1536**3 / best(lambda: a @ b)
    source = torch.zeros(1 << 26)
    target = torch.zeros_like(source)
    copied = 2 * source.numel() * 4 / best(lambda: target.copy_(source))
    return replace(like, name="this CPU, one thread", flops=product, flops32=product, memory_bandwidth=copied)
