"""The cost model of a step beside a measured one: `agenttune plan`'s own numbers, for the machine at hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from configs.gpus import Gpu
from configs.layout import Layout
from configs.schema import Config
from configs.shapes import ModelShape
from trainer.data.micro_batch import GlobalBatch
from trainer.data.open import open_stream
from trainer.metrics import step_flops
from trainer.plan.setup import Cluster, Setup
from trainer.plan.speed import speed
from trainer.step import sample_lengths


def row_lengths(config: Config, rows: int) -> list[Sequence[int]]:
    """Tokens of each sample, in each of the stream's first rows."""
    stream = open_stream(config)
    return [sample_lengths(GlobalBatch((next(stream),))) for _ in range(rows)]


def predicted(
    config: Config, shape: ModelShape, gpu: Gpu, measured: float, lengths: Sequence[Sequence[int]]
) -> dict[str, Any]:
    """Parts of the time that the model gives a step of one device, its FLOPs, and `measured` seconds beside it.

    lengths: of samples in rows such as those measured. FLOPs are of these, as `StepReport.mfu` counts them, the head at
    every place; the model's time has attention over whole rows.
    """
    setup = Setup.of(config, shape, Layout(1, 1, 1), Cluster(gpu, 1, 1, 1e9))
    told = speed(setup)
    flops = sum(step_flops(shape, row) for row in lengths) / len(lengths) * setup.rows
    tokens = sum(map(sum, lengths)) / len(lengths) * setup.rows
    return {
        "measured_seconds": measured,
        "predicted_seconds": round(told.time.total, 4),
        "measured_over_predicted": round(measured / told.time.total, 3),
        "parts": {name: round(value, 4) for name, value in asdict(told.time).items() if value},
        "flops": flops,
        "flops_per_second": flops / measured,
        "mfu": flops / measured / gpu.flops,
        "tokens_per_second": tokens / measured,
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

    a, b = torch.randn(1536, 1536), torch.randn(1536, 1536)
    product = 2 * 1536**3 / best(lambda: a @ b)
    source = torch.zeros(1 << 26)
    target = torch.zeros_like(source)
    copied = 2 * source.numel() * 4 / best(lambda: target.copy_(source))
    return replace(like, name="this CPU, one thread", flops=product, flops32=product, memory_bandwidth=copied)
