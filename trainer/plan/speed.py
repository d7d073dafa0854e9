"""The time of a step, by part.

A roofline: products at a share of the tensor cores' peak, everything that is no product at a share of the memory's
bandwidth, by the bytes that kernels read and write one after another, and links at a share of theirs. Nothing
overlaps, as in DeepSpeed's pipeline; kernels' launches are not counted. Samples are as long as rows: shorter ones take
less attention than is counted.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import prod

from trainer.metrics import step_flops
from trainer.plan.activations import stream_bytes, vocabulary
from trainer.plan.setup import Recompute, Setup
from trainer.plan.states import held
from trainer.plan.traffic import (
    bandwidth,
    data_link,
    data_traffic,
    pipeline_link,
    tensor_calls,
    tensor_link,
)

PRODUCTS = 0.80
"""Of the tensor cores' peak: an 8192^3 bfloat16 product reaches 790 to 798 of 989 TFLOP/s on H100 and H200."""
ATTENTION = 0.37
"""Of the same: FlashAttention 2, which torch has, reaches 368 of 989 TFLOP/s forward at 4096 tokens."""
MEMORY = 0.85
"""Of the memory's bandwidth: what a fused AdamW is to reach of a copy's, the goal of our own kernels."""
LINKS = 0.82
"""Of a link's rate: NCCL's protocol leaves 370 of NVLink's 450 GB/s (its maintainer, nccl-tests issue 212)."""
OPTIMIZER = 30.0
"""Bytes that fused AdamW moves for each number that it updates."""

Ways = tuple[float, float]


@dataclass(frozen=True)
class KernelBytes:
    """Read and written for each number in bfloat16, forward and backward."""

    norm: Ways
    residual: Ways
    rotary: Ways
    """Of queries, keys and values: one kernel turns the first two and carries the third over."""
    gate: Ways
    logit: Ways
    sums: dict[int, float]
    """A gradient's sum, for each number and micro-batch, by bytes of a weight."""


OURS = KernelBytes(
    # Each formula of `trainer.model.kernels` is one kernel, but for a norm's backward pass, which sums along rows and
    # along columns and so reads twice; the loss looks at its logits twice each way; a bfloat16 weight's gradient is
    # added to its sum by the product, which reads and writes it.
    *((4.0, 10.0), (6.0, 6.0), (4.0, 4.0), (6.0, 10.0), (4.0, 4.0)),
    sums={2: 8.0, 4: 12.0},
)
_STEP = 28.0
"""Mean over data ranks, copy out of the bucket, norm, clipping and zeroing of a sum."""


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
    tokens_per_second: float
    """Of all GPUs; places of rows, padding too."""
    per_gpu: float
    mfu: float
    """Model FLOPs, nothing recomputed, over the datasheet's peak."""


def bubble(pipeline: int, micro_batches: int) -> float:
    """Share of the passes' time that a stage waits under 1F1B (Narayanan et al. 2021)."""
    return (pipeline - 1) / (micro_batches + pipeline - 1)


def speed(setup: Setup) -> Speed:
    """Of the slowest stage, which the others wait for."""
    slots = [_slot(setup, stage) for stage in range(setup.layout.pipeline)]
    slowest = max(slots, key=lambda slot: sum(slot.values()))
    m, p = setup.micro_batches, setup.layout.pipeline
    passes = {name: m * seconds for name, seconds in slowest.items()}
    time = StepTime(
        **passes,
        bubble=(p - 1) * sum(slowest.values()),
        data=max(_data(setup, stage) for stage in range(p)),
        optimizer=max(_optimizer(setup, stage) for stage in range(p)),
    )
    tokens = setup.rows * setup.length
    flops = step_flops(setup.shape, [setup.length] * setup.rows)
    gpus = setup.layout.world_size
    return Speed(
        time,
        tokens / time.total,
        tokens / time.total / gpus,
        flops / (time.total * gpus * setup.cluster.gpu.flops),
    )


def _slot(setup: Setup, stage: int) -> dict[str, float]:
    """Seconds of one micro-batch's two passes on a stage."""
    gpu, shape, tensor = setup.cluster.gpu, setup.shape, setup.layout.tensor
    tokens, layers = setup.tokens, setup.decoders(stage)
    peak = gpu.flops if setup.item == 2 else gpu.flops32
    matrices = sum(prod(s) for s in shape.layer_tensors().values() if len(s) > 1) / tensor
    head = vocabulary(setup) * shape.hidden if setup.last(stage) else 0
    # Two FLOPs a weight and token; twice that backward.
    layer = 2.0 * matrices * tokens / (peak * PRODUCTS)
    products = 3 * (layers * layer + 2.0 * head * tokens / (peak * PRODUCTS))
    # Half of the square, two products; flash attention computes one of them again in its five backward.
    attention = 2.0 * setup.length * shape.heads * shape.head_dim / tensor * tokens / (peak * ATTENTION)
    moving = gpu.memory_bandwidth * MEMORY
    forward, backward = _kernel_bytes(setup)
    logits = setup.item / 2 * sum(OURS.logit) * vocabulary(setup) * tokens if setup.last(stage) else 0.0
    again, again_bytes = _again(setup.recompute, layer, attention, setup)
    calls = tensor_calls(setup, stage)
    rate = bandwidth(setup.cluster, tensor_link(setup), tensor, 1) * LINKS
    neighbours = (not setup.first(stage)) + (not setup.last(stage))
    hop = bandwidth(setup.cluster, pipeline_link(setup), 1, 1) * LINKS
    return {
        "compute": products + 3.5 * layers * attention,
        "recompute": layers * (again + again_bytes / moving),
        "kernels": (layers * (forward + backward) + logits) / moving,
        "accumulate": OURS.sums[setup.item] * held(setup, stage).numbers / moving,
        "tensor": calls.sent(tensor) / rate,
        # Received and sent one after the other, each way.
        "pipeline": neighbours * (2 * stream_bytes(setup) + 8.0 * tokens) / hop,
    }


def _kernel_bytes(setup: Setup) -> tuple[float, float]:
    """Bytes that a layer's kernels between products move for a micro-batch, forward and backward."""
    return tuple(  # pyright: ignore[reportReturnType]
        setup.item
        / 2
        * (
            setup.stream_tokens * setup.shape.hidden * 2 * (OURS.norm[way] + OURS.residual[way])
            + _rotary(setup) * OURS.rotary[way]
            + _gated(setup) * OURS.gate[way]
        )
        for way in (0, 1)
    )


def _rotary(setup: Setup) -> float:
    heads = (setup.shape.heads + 2 * setup.shape.kv_heads) // setup.layout.tensor
    return float(setup.tokens * heads * setup.shape.head_dim)


def _gated(setup: Setup) -> float:
    return setup.tokens * setup.shape.intermediate / setup.layout.tensor


def _again(mode: Recompute, layer: float, attention: float, setup: Setup) -> tuple[float, float]:
    """Seconds of products and attention that a layer computes again, and bytes that its kernels move again."""
    forward, _ = _kernel_bytes(setup)
    if mode == "full":
        return layer + attention, forward
    if mode == "selective":  # norms and gate
        norms = setup.stream_tokens * setup.shape.hidden * 2 * OURS.norm[0]
        return 0.0, setup.item / 2 * (norms + _gated(setup) * OURS.gate[0])
    return 0.0, 0.0


def _data(setup: Setup, stage: int) -> float:
    sent, layout = data_traffic(setup, stage), setup.layout
    rate = bandwidth(setup.cluster, data_link(setup), layout.data, layout.tensor) * LINKS
    hop = bandwidth(setup.cluster, pipeline_link(setup), 1, 1) * LINKS
    return (sent.gradients + sent.weights) / rate + sent.tied / hop


def _optimizer(setup: Setup, stage: int) -> float:
    numbers, data = held(setup, stage).padded(setup.layout.data), setup.layout.data
    moving = setup.cluster.gpu.memory_bandwidth * MEMORY
    return numbers * (_STEP + OPTIMIZER / data) / moving
