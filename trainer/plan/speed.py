"""The time of a step, by part.

A roofline: products at a share of the tensor cores' peak, everything that is no product at a share of the memory's
bandwidth, and links at a share of theirs. Nothing overlaps, as in DeepSpeed's pipeline; kernels' launches are not
counted. Unless a setup says how long samples are, they are as long as rows: shorter ones take less attention.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from trainer.metrics import step_flops
from trainer.plan.activations import stream_bytes
from trainer.plan.setup import Setup
from trainer.plan.traffic import (
    bandwidth,
    data_link,
    data_traffic,
    pipeline_link,
    tensor_calls,
    tensor_link,
)
from trainer.plan.work import MicroBatchWork, Work, micro_batch_work, update_bytes


@dataclass(frozen=True)
class Rates:
    """Shares of what datasheets promise."""

    products: float = 1.0
    attention: float = 1.0
    memory: float = 1.0
    links: float = 1.0


DATASHEET = Rates()
REACHED = Rates(
    # An 8192^3 bfloat16 product reaches 790 to 798 of 989 TFLOP/s on H100 and H200.
    products=0.80,
    # FlashAttention 2, which torch has, reaches 368 of 989 TFLOP/s forward at 4096 tokens.
    attention=0.37,
    # What a fused AdamW is to reach of a copy's, the goal of our own kernels.
    memory=0.85,
    # NCCL's protocol leaves 370 of NVLink's 450 GB/s (its maintainer, nccl-tests issue 212).
    links=0.82,
)


@dataclass(frozen=True)
class StepTime:
    """Seconds of a step. The parts add up to it."""

    compute: float
    """Products and attention, forward and backward."""
    recompute: float
    """What is computed a second time, and its kernels between products."""
    kernels: float
    """Norms, rotary embedding, gates, loss: bound by memory."""
    accumulate: float
    """Gradients added to their sums."""
    tensor: float
    pipeline: float
    bubble: float
    """While a stage waits for others: (p - 1) / (m + p - 1) of the passes."""
    data: float
    optimizer: float

    @property
    def total(self) -> float:
        return sum(asdict(self).values())


@dataclass(frozen=True)
class Speed:
    time: StepTime
    floor: float
    """Seconds that the same work takes at the datasheets' rates."""
    flops: float
    """What each rank of the stage with most computes in a step; what is recomputed too."""
    moved: float
    """Bytes that its kernels read and write of the device's memory, products' own not counted."""
    tokens_per_second: float
    """Of all GPUs; places of rows, padding too."""
    per_gpu: float
    mfu: float
    """Model FLOPs, nothing recomputed, over the datasheet's peak."""


def bubble(pipeline: int, micro_batches: int) -> float:
    """Share of the passes' time that a stage waits under 1F1B (Narayanan et al. 2021)."""
    return (pipeline - 1) / (micro_batches + pipeline - 1)


def speed(setup: Setup, reached: Rates = REACHED) -> Speed:
    """Of the slowest stage, which the others wait for."""
    stages = range(setup.layout.pipeline)
    works = [micro_batch_work(setup, stage) for stage in stages]
    updates = [update_bytes(setup, stage) for stage in stages]
    time = _time(setup, works, updates, reached)
    m, gpus, tokens = setup.micro_batches, setup.layout.world_size, setup.rows * setup.length
    flops = step_flops(setup.shape, setup.samples or [setup.length]) * setup.rows / setup.counted_rows
    return Speed(
        time,
        _time(setup, works, updates, DATASHEET).total,
        max(m * work.flops for work in works),
        max(m * work.moved + update for work, update in zip(works, updates, strict=True)),
        tokens / time.total,
        tokens / time.total / gpus,
        flops / (time.total * gpus * setup.cluster.gpu.flops),
    )


def _time(setup: Setup, works: list[MicroBatchWork], updates: list[float], rates: Rates) -> StepTime:
    slots = [_slot(setup, stage, work, rates) for stage, work in enumerate(works)]
    slowest = max(slots, key=lambda slot: sum(slot.values()))
    m, p = setup.micro_batches, setup.layout.pipeline
    return StepTime(
        **{name: m * seconds for name, seconds in slowest.items()},
        bubble=(p - 1) * sum(slowest.values()),
        data=max(_data(setup, stage, rates) for stage in range(p)),
        optimizer=max(updates) / (setup.cluster.gpu.memory_bandwidth * rates.memory),
    )


def _slot(setup: Setup, stage: int, work: MicroBatchWork, rates: Rates) -> dict[str, float]:
    """Seconds of one micro-batch's two passes on a stage."""
    gpu, tensor = setup.cluster.gpu, setup.layout.tensor
    peak = gpu.flops if setup.item == 2 else gpu.flops32
    moving = gpu.memory_bandwidth * rates.memory
    rate = bandwidth(setup.cluster, tensor_link(setup), tensor, 1) * rates.links
    neighbours = (not setup.first(stage)) + (not setup.last(stage))
    hop = bandwidth(setup.cluster, pipeline_link(setup), 1, 1) * rates.links

    def computing(work: Work) -> float:
        return (work.products / rates.products + work.attention / rates.attention) / peak

    return {
        "compute": computing(work.passes),
        "recompute": computing(work.again) + work.again.moved / moving,
        "kernels": work.passes.moved / moving,
        "accumulate": work.sums / moving,
        "tensor": tensor_calls(setup, stage).sent(tensor) / rate,
        # Received and sent one after the other, each way.
        "pipeline": neighbours * (2 * stream_bytes(setup) + 8.0 * setup.tokens) / hop,
    }


def _data(setup: Setup, stage: int, rates: Rates) -> float:
    sent, layout = data_traffic(setup, stage), setup.layout
    rate = bandwidth(setup.cluster, data_link(setup), layout.data, layout.tensor) * rates.links
    hop = bandwidth(setup.cluster, pipeline_link(setup), 1, 1) * rates.links
    return (sent.gradients + sent.weights) / rate + sent.tied / hop
