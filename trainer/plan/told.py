"""A plan as JSON, and what of it a run compares with what it measures."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from configs.layout import Layout
from trainer.plan.host import saving
from trainer.plan.layouts import Choice
from trainer.plan.setup import Setup
from trainer.plan.speed import bubble
from trainer.plan.states import held
from trainer.plan.traffic import (
    data_link,
    data_traffic,
    pipeline_bytes,
    pipeline_link,
    tensor_calls,
    tensor_link,
)


def layout_json(layout: Layout) -> dict[str, Any]:
    return {"tensor": layout.tensor, "pipeline": layout.pipeline, "data": layout.data}


def choice_json(choice: Choice, *, timed: bool = True) -> dict[str, Any]:
    """Everything that is predicted of a layout: bytes and seconds. `timed`: the type of GPU is known."""
    setup = choice.setup
    found: dict[str, Any] = {
        "layout": layout_json(setup.layout),
        "sequence": setup.layout.sequence,
        "recompute": setup.recompute,
        "micro_rows": setup.micro_rows,
        "micro_batches": setup.micro_batches,
        "settings": choice.overrides,
        "stages": stages_json(choice),
        "peak_bytes": choice.peak.total,
        "torch_peak_bytes": choice.peak.torch,
        "bubble": bubble(setup.layout.pipeline, setup.micro_batches),
        "saving": asdict(saving(setup)),
    }
    if timed:
        found |= {
            "step_seconds": choice.speed.time.total,
            "parts_seconds": asdict(choice.speed.time),
            "floor_seconds": choice.speed.floor,
            "flops": choice.speed.flops,
            "moved_bytes": choice.speed.moved,
            "tokens_per_second": choice.speed.tokens_per_second,
            "tokens_per_second_per_gpu": choice.speed.per_gpu,
            "mfu": choice.speed.mfu,
        }
    return found


def stages_json(choice: Choice) -> list[dict[str, Any]]:
    """What each rank of a stage holds and sends."""
    setup = choice.setup
    return [
        {
            "stage": stage,
            "decoder_layers": setup.decoders(stage),
            "parameters": held(setup, stage).numbers,
            "in_flight": setup.in_flight(stage),
            "memory": asdict(memory) | {"total": memory.total},
            "traffic": traffic_json(setup, stage),
        }
        for stage, memory in enumerate(choice.memory)
    ]


def traffic_json(setup: Setup, stage: int) -> dict[str, Any]:
    """Bytes that each rank of a stage sends in a step, by group, and over which link."""
    m, calls, data = setup.micro_batches, tensor_calls(setup, stage), data_traffic(setup, stage)
    return {
        "tensor": {
            "bytes": m * calls.sent(setup.layout.tensor),
            "all_reduces": m * calls.all_reduces,
            "gathers_and_reduce_scatters": m * calls.gathers,
            "link": tensor_link(setup),
        },
        "pipeline": {"bytes": m * pipeline_bytes(setup, stage), "link": pipeline_link(setup)},
        "data": {
            "bytes": data.gradients + data.weights,
            "gradients": data.gradients,
            "weights": data.weights,
            "link": data_link(setup),
        },
        "tied_embedding": {"bytes": data.tied, "link": pipeline_link(setup)},
    }
