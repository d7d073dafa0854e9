"""What holds of the plan's bytes whatever the model and the layout; real ranks are counted in tests/distributed."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.gpus import GPUS, gpu_named
from configs.layout import Layout
from configs.shapes import SHAPES, ModelShape
from trainer.plan.host import saving
from trainer.plan.memory import all_memory
from trainer.plan.setup import RECOMPUTE, Cluster, Setup
from trainer.plan.speed import bubble
from trainer.plan.states import held

LARGE = [name for name in SHAPES if name != "tiny"]
ROOT = Path(__file__).parents[2]


@st.composite
def setups(draw: st.DrawFn) -> Setup:
    shape = SHAPES[draw(st.sampled_from(LARGE))]
    shape = replace(shape, vocab=draw(st.integers(31000, 33000)), tied=draw(st.booleans()))
    tensor, pipeline = draw(st.sampled_from((1, 2, 4))), draw(st.sampled_from((1, 2, 3, 4, 8)))
    data, micro_rows = draw(st.sampled_from((1, 2, 3, 8))), draw(st.sampled_from((1, 2)))
    layout = Layout(tensor, pipeline, data, sequence=draw(st.booleans()))
    return Setup(
        shape=shape,
        layout=layout,
        cluster=Cluster(GPUS["h100"], layout.world_size, 8, 50e9),
        item=draw(st.sampled_from((2, 4))),
        recompute=draw(st.sampled_from(RECOMPUTE)),
        length=draw(st.sampled_from((1024, 4096))),
        rows=data * micro_rows * draw(st.integers(1, 12)),
        micro_rows=micro_rows,
    )


@given(setups())
def test_more_tensor_ranks_never_take_more_memory(setup: Setup) -> None:
    doubled = replace(setup, layout=replace(setup.layout, tensor=2 * setup.layout.tensor))
    for before, after in zip(all_memory(setup), all_memory(doubled), strict=True):
        assert after.total <= before.total


@given(setups())
def test_ranks_hold_the_model_and_what_is_replicated(setup: Setup) -> None:
    """Norms are on each tensor rank, vocabularies padded, and a tied embedding is on both ends of a pipeline."""
    shape, tensor = setup.shape, setup.layout.tensor
    norms = shape.hidden * (2 * shape.layers + 1)
    padding = (-shape.vocab % tensor) * shape.hidden * (1 if shape.tied else 2)
    twice = shape.tied and setup.layout.pipeline > 1
    copy = (shape.vocab + -shape.vocab % tensor) * shape.hidden if twice else 0
    of_stages = sum(held(setup, stage).numbers for stage in range(setup.layout.pipeline))
    assert tensor * of_stages == shape.parameters() + (tensor - 1) * norms + padding + copy


@given(setups())
def test_more_recomputation_never_keeps_more(setup: Setup) -> None:
    kept = [
        max(memory.activations for memory in all_memory(replace(setup, recompute=mode))) for mode in RECOMPUTE
    ]
    if min(kept) > 0:  # at the moment that decides
        assert kept == sorted(kept, reverse=True)


@settings(max_examples=25, deadline=None)  # the plan of an 80-layer model's files takes a tenth of a second
@given(setups())
def test_copies_for_a_checkpoint_are_twelve_bytes_a_parameter(setup: Setup) -> None:
    one_node = replace(setup, cluster=replace(setup.cluster, per_node=setup.layout.world_size))
    saved, shape = saving(one_node), setup.shape
    norms = shape.hidden * (2 * shape.layers + 1) * (setup.layout.tensor - 1)
    padding = (-shape.vocab % setup.layout.tensor) * shape.hidden * (1 if shape.tied else 2)
    assert saved.background == 12 * (shape.parameters() + norms + padding)
    assert saved.at_once <= saved.background
    assert saved.disk == (12 + setup.item) * shape.parameters()


def test_in_flight_is_what_deepspeeds_schedule_has() -> None:
    from deepspeed.runtime.pipe.schedule import BackwardPass, ForwardPass, TrainSchedule

    shape = SHAPES["llama2-7b"]
    for stages in (1, 2, 4, 5):
        for micro in (1, 2, 3, 4, 9):
            layout = Layout(1, stages, 1)
            setup = Setup(shape, layout, Cluster(GPUS["h100"], stages, 8, 50e9), 2, "none", 4096, micro, 1)
            for stage in range(stages):
                now = most = 0
                for commands in TrainSchedule(micro, stages, stage):
                    for command in commands:
                        now += isinstance(command, ForwardPass) - isinstance(command, BackwardPass)
                        most = max(most, now)
                assert setup.in_flight(stage) == most


@pytest.mark.parametrize(("stages", "micro"), [(1, 4), (2, 8), (4, 64), (8, 2)])
def test_bubble_is_the_idle_part_of_the_schedule(stages: int, micro: int) -> None:
    """Slots of DeepSpeed's schedule in which a stage runs no pass, over all."""
    from deepspeed.runtime.pipe.schedule import BackwardPass, ForwardPass, TrainSchedule

    slots = [list(commands) for commands in TrainSchedule(micro, stages, 0)]
    idle = sum(not any(isinstance(c, ForwardPass | BackwardPass) for c in slot) for slot in slots)
    assert bubble(stages, micro) == pytest.approx(idle / len(slots))


def test_main_memory_that_the_readme_names() -> None:
    """A 7B model on one host, and one rank's copy where saving at once has weight files of 2 GB."""
    setup = Setup(
        SHAPES["llama2-7b"], Layout(1, 1, 1), Cluster(GPUS["h100"], 1, 8, 50e9), 2, "none", 4096, 64, 1
    )
    assert saving(setup).background / 1e9 == pytest.approx(80.9, abs=0.1)
    assert saving(setup).at_once / 1e9 == pytest.approx(12, abs=0.5)
    # As many files at a time as there are tensor ranks, of which each has an eighth.
    eight = replace(
        setup, shape=SHAPES["llama2-13b"], layout=Layout(8, 1, 1), cluster=Cluster(GPUS["h100"], 8, 8, 1.0)
    )
    assert saving(eight).at_once / 8 / 1e9 == pytest.approx(11.5, abs=0.7)
    assert saving(eight).background / 8 / 1e9 == pytest.approx(19.5, abs=0.1)


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA A100-SXM4-80GB", "a100-80"),
        ("NVIDIA A100-SXM4-40GB", "a100-40"),
        ("NVIDIA B200", "b200"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA GeForce RTX 4090", None),
        (
            "NVIDIA GH200 480GB",
            None,
        ),  # these have other peaks, links or memory than what they are named after
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA H100 NVL", None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("NVIDIA A100-SXM-64GB", None),
        ("NVIDIA A100 80GB PCIe", None),
        ("NVIDIA A100", None),
    ],
)
def test_types_of_devices(device: str, name: str | None) -> None:
    gpu = gpu_named(device)
    assert (gpu and gpu.name) == name


def test_a_plan_does_without_torch() -> None:
    code = "import json, sys, launch.plan; print(json.dumps([m for m in ('torch', 'deepspeed') if m in sys.modules]))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True, cwd=ROOT)
    assert json.loads(ended.stdout) == []


def test_a_stage_has_its_layers() -> None:
    shape: ModelShape = SHAPES["llama2-70b"]
    setup = Setup(shape, Layout(8, 3, 1), Cluster(GPUS["h100"], 24, 8, 50e9), 2, "none", 4096, 64, 1)
    assert sum(setup.decoders(stage) for stage in range(3)) == 80
