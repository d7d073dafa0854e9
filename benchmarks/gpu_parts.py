"""What one GPU does with the pieces of a step: `python benchmarks/gpu_parts.py PART` prints a line of JSON.

All in the shapes of Llama 2 7B, bfloat16, a row of 4096 tokens, on random numbers. Times are medians of CUDA
events.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1])]

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402

from benchmarks.conversations import sample_lengths  # noqa: E402
from configs.shapes import SHAPES  # noqa: E402
from trainer.bounds import sample_bounds  # noqa: E402

SHAPE = SHAPES["llama2-7b"]
TOKENS = 4096
H, FF, V = SHAPE.hidden, SHAPE.intermediate, SHAPE.vocab
PRODUCTS = [(H, 3 * H), (H, H), (H, 2 * FF), (FF, H)]
"""Inputs and outputs of a decoder layer's products."""


def seconds(run: Callable[[], Any], repeat: int = 20, warm: int = 5) -> float:
    """Of one call, by the device's own clock; the median."""
    for _ in range(warm):
        run()
    marks = [
        (torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(repeat)
    ]
    torch.cuda._sleep(40_000_000)  # 20 ms, so that the host is ahead and the device never waits for it
    for before, after in marks:
        before.record()
        run()
        after.record()
    torch.cuda.synchronize()
    return sorted(before.elapsed_time(after) for before, after in marks)[repeat // 2] / 1e3


def drawn(*sizes: int, dtype: torch.dtype = torch.bfloat16, grad: bool = False) -> torch.Tensor:
    return torch.randn(sizes, device="cuda", dtype=dtype, requires_grad=grad)


def _all(outputs: torch.Tensor | tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return (outputs,) if isinstance(outputs, torch.Tensor) else outputs


def both_ways(run: Callable[..., Any], *inputs: torch.Tensor) -> dict[str, float]:
    """Microseconds forward, and forward and backward together."""
    with torch.no_grad():
        forward = seconds(lambda: run(*inputs))
    gradients = [torch.randn_like(output) for output in _all(run(*inputs))]
    leaves = [x for x in inputs if x.requires_grad]
    whole = seconds(lambda: torch.autograd.grad(_all(run(*inputs)), leaves, gradients))
    return {"forward_us": round(1e6 * forward, 1), "both_us": round(1e6 * whole, 1)}


def ceilings() -> dict[str, Any]:
    """What the card reaches: a copy of 4 GB, and a product of 8192 x 8192 x 8192 in bfloat16."""
    source = drawn(1 << 31)
    target = torch.empty_like(source)
    copied = seconds(lambda: target.copy_(source))
    a, b = drawn(8192, 8192), drawn(8192, 8192)
    product = seconds(lambda: a @ b)
    return {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "copy_bytes_per_second": (2 << 32) / copied,
        "product_flops": 2 * 8192**3 / product,
    }


def kernels() -> dict[str, Any]:
    """Norm, gate, rotary and loss: ours, their plain twins, and Liger's of all but the rotary embedding."""
    from trainer.model.kernels import rms_norm, split_rotated, swiglu
    from trainer.model.rotary import rotary_table

    x, weight = drawn(TOKENS, 1, H, grad=True), drawn(H, grad=True)
    both = drawn(TOKENS, 1, 2 * FF, grad=True)
    heads = drawn(TOKENS, 3 * SHAPE.heads, SHAPE.head_dim, grad=True)
    table = rotary_table(
        SHAPE.head_dim, TOKENS, tuple(SHAPE.rope.items()), torch.device("cuda"), torch.bfloat16
    )
    places = torch.arange(TOKENS, device="cuda")

    def plain_norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return (x.float() * torch.rsqrt(x.float().square().mean(-1, keepdim=True) + 1e-5)).to(
            x.dtype
        ) * weight

    def plain_gate(both: torch.Tensor) -> torch.Tensor:
        gate, up = both.chunk(2, -1)
        return F.silu(gate) * up

    def plain_rotary(heads: torch.Tensor) -> tuple[torch.Tensor, ...]:
        query, key, value = heads.split(SHAPE.heads, 1)
        cos, sin = (part[:TOKENS, None].repeat(1, 1, 2) for part in table)

        def turned(x: torch.Tensor) -> torch.Tensor:
            first, second = x.chunk(2, -1)
            return x * cos + torch.cat((-second, first), -1) * sin

        return turned(query), turned(key), value

    found: dict[str, Any] = {
        "norm": both_ways(lambda x, w: rms_norm(x, w, 1e-5), x, weight),
        "norm, plain": both_ways(plain_norm, x, weight),
        "norm, torch's": both_ways(lambda x, w: F.rms_norm(x, (H,), w, 1e-5), x, weight),
        "gate": both_ways(swiglu, both),
        "gate, plain": both_ways(plain_gate, both),
        "rotary": both_ways(lambda y: split_rotated(y, SHAPE.heads, SHAPE.heads, table, places), heads),
        "rotary, plain": both_ways(plain_rotary, heads),
        **_losses(),
    }
    try:
        from liger_kernel.ops.rms_norm import LigerRMSNormFunction  # pyright: ignore[reportMissingImports]
        from liger_kernel.ops.swiglu import LigerSiLUMulFunction  # pyright: ignore[reportMissingImports]

        gate, up = drawn(TOKENS, FF, grad=True), drawn(TOKENS, FF, grad=True)
        found["norm, Liger's"] = both_ways(lambda x, w: LigerRMSNormFunction.apply(x, w, 1e-5), x, weight)
        found["gate, Liger's"] = both_ways(LigerSiLUMulFunction.apply, gate, up)
        found["loss, Liger's"] = _liger_loss()
    except Exception as error:  # ours are measured all the same
        print(f"Liger: {type(error).__name__}: {error}", file=sys.stderr)
    return found


def _losses() -> dict[str, Any]:
    """The head's product apart: 4096 places over 32,000 ids, all of them targets."""
    from configs.layout import Layout
    from trainer.cross_entropy import vocab_parallel_losses
    from trainer.parallel.grid import start_grid, stop_grid

    grid = start_grid(Layout(1, 1, 1))
    logits, wanted = _logits()
    found = {
        "loss": _in_place(lambda x: vocab_parallel_losses(x, wanted, 0, V, grid.tensor_group), logits),
        "loss, plain": both_ways(lambda x: F.cross_entropy(x.float(), wanted, reduction="none"), logits),
    }
    stop_grid()
    return found


def _liger_loss() -> dict[str, float]:
    from liger_kernel.transformers.functional import liger_cross_entropy  # pyright: ignore[reportMissingImports]

    logits, wanted = _logits()
    return _in_place(lambda x: liger_cross_entropy(x, wanted, reduction="none"), logits)


def _logits() -> tuple[torch.Tensor, torch.Tensor]:
    return drawn(TOKENS, V, grad=True), torch.randint(0, V, (TOKENS,), device="cuda")


def _in_place(loss: Callable[[torch.Tensor], torch.Tensor], logits: torch.Tensor) -> dict[str, float]:
    """Of a loss whose gradient takes the logits' place: on a copy, whose time is taken off."""
    whole, copy = both_ways(lambda x: loss(x * 1), logits), both_ways(lambda x: x * 1, logits)
    return {name: round(value - copy[name], 1) for name, value in whole.items()}


def attention() -> dict[str, Any]:
    """Variable lengths, those of agents' samples and one of 4096: FLOP/s of what causal attention inside them needs."""
    from trainer.model.attention import packed_attention

    found: dict[str, Any] = {}
    for name, lengths in (("one sample", [TOKENS]), ("samples", _filled(sample_lengths(seed=1)))):
        positions = torch.cat([torch.arange(length) for length in lengths])
        bounds = sample_bounds(positions[None], torch.device("cuda"))
        inputs = [drawn(TOKENS, SHAPE.heads, SHAPE.head_dim, grad=True) for _ in range(3)]
        told = both_ways(lambda q, k, v, b=bounds: packed_attention(q, k, v, b), *inputs)
        flops = 2.0 * sum(length**2 for length in lengths) * SHAPE.heads * SHAPE.head_dim
        found[name] = {
            **told,
            "samples": len(lengths),
            "forward_flops": flops / told["forward_us"] * 1e6,
            "backward_flops": 2.5 * flops / (told["both_us"] - told["forward_us"]) * 1e6,
        }
    return found


def _filled(lengths: Any) -> list[int]:
    """Of the lengths the first that fill a row."""
    taken: list[int] = []
    for length in lengths:
        taken.append(min(length, TOKENS - sum(taken)))
        if sum(taken) == TOKENS:
            return taken
    raise AssertionError("lengths have no end")


def accumulation() -> dict[str, Any]:
    """Weight gradients of a layer: the products alone, with the float32 sum in them, and with the sum apart.

    And of the head, of which half of the places are targets, and the embedding, whose gradient is no product.
    """
    from trainer.parallel.weight_sums import add_product

    told = {"products": 0.0, "summed_in_products": 0.0, "summed_apart": 0.0}
    for inputs, outputs in PRODUCTS:
        x, g = drawn(TOKENS, inputs), drawn(TOKENS, outputs)
        into = torch.zeros(outputs, inputs, dtype=torch.float32, device="cuda")

        def apart(x: torch.Tensor = x, g: torch.Tensor = g, into: torch.Tensor = into) -> None:
            into.add_((g.t() @ x).to(torch.float32))

        told["products"] += seconds(lambda g=g, x=x: g.t() @ x)
        told["summed_in_products"] += seconds(lambda g=g, x=x, into=into: add_product(x, g, into))
        told["summed_apart"] += seconds(apart)
    x, g = drawn(TOKENS // 2, H), drawn(TOKENS // 2, V)
    into, looked_up = torch.zeros(V, H, dtype=torch.float32, device="cuda"), drawn(V, H)
    told["head"] = seconds(lambda: g.t() @ x)
    told["head_summed"] = seconds(lambda: add_product(x, g, into))
    told["embedding"] = seconds(lambda: into.add_(looked_up.to(torch.float32)))
    return {f"{name}_us": round(1e6 * value, 1) for name, value in told.items()}


def adamw() -> dict[str, Any]:
    """An update of 10^9 numbers as ZeRO gives them to it, one flat tensor: 28 bytes for each are read and written."""
    from configs.schema import OptimizerConfig
    from trainer.optimizer import make_adamw

    weights = torch.nn.Parameter(torch.randn(10**9, device="cuda"))
    optimizer = make_adamw([weights], OptimizerConfig())
    weights.grad = torch.randn_like(weights)
    taken = seconds(optimizer.step, repeat=10)
    return {"seconds": taken, "bytes_per_second": 28 * weights.numel() / taken}


def whole() -> dict[str, Any]:
    """A full fine-tune of all 32 layers: steps of 8 rows, and the most memory."""
    from benchmarks.conversations import random_batches
    from benchmarks.drawn_model import drawn_parts
    from trainer.guard import Guard
    from trainer.step import train_step

    recompute = os.environ.get("RECOMPUTE", "selective")
    parts = drawn_parts(SHAPE, dtype="bfloat16", length=TOKENS, rows=8, recompute=recompute)
    batches = random_batches(8, TOKENS, V, seed=1)
    reports = [train_step(parts, next(batches), step, Guard()).report for step in range(1, 5)]
    last = sorted(reports[1:], key=lambda report: report.step_seconds)[1]
    assert all(math.isfinite(report.loss) for report in reports)
    return {
        "layers": SHAPE.layers,
        "recompute": recompute,
        "step_seconds": last.step_seconds,
        "tokens_per_second": last.tokens_per_second,
        "mfu": last.mfu,
        "losses": [report.loss for report in reports],
        "peak_bytes": torch.cuda.max_memory_allocated(),
        "reserved_bytes": torch.cuda.max_memory_reserved(),
    }


PARTS = {part.__name__: part for part in (ceilings, kernels, attention, accumulation, adamw, whole)}


def main() -> None:
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    os.environ.setdefault("MASTER_PORT", "29541")
    torch.manual_seed(1)
    print(json.dumps(PARTS[sys.argv[1]]()))


if __name__ == "__main__":
    main()
