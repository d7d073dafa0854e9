"""Layouts that a plan ranks are those that a run accepts; those that it refuses are not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.check import check_config
from configs.errors import ConfigError
from configs.gpus import GPUS
from configs.layout import Layout
from configs.schema import (
    BatchConfig,
    Config,
    DataConfig,
    ModelConfig,
    ParallelConfig,
    SourceConfig,
    TrainConfig,
)
from configs.shapes import SHAPES
from trainer.plan.layouts import Choice, Refused, make_plan
from trainer.plan.setup import Cluster


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder and data that `check_config` finds."""
    path = tmp_path_factory.mktemp("model")
    (path / "config.json").write_text(json.dumps(SHAPES["llama2-7b"].hf_config()))
    (path / "data.jsonl").write_text("{}\n")
    return path


def config_of(folder: Path, rows: int = 64, micro_rows: int = 1, **parallel: object) -> Config:
    return Config(
        model=ModelConfig(path=str(folder)),
        data=DataConfig(sources=[SourceConfig("a", str(folder / "data.jsonl"), "agent")]),
        batch=BatchConfig(rows=rows, micro_rows=micro_rows),
        parallel=ParallelConfig(**parallel),  # pyright: ignore[reportArgumentType]
        train=TrainConfig(steps=1),
    )


@settings(max_examples=15)
@given(
    name=st.sampled_from(("llama2-7b", "llama2-13b", "llama2-70b")),
    gpus=st.integers(1, 48),
    rows=st.integers(1, 96),
    gpu=st.sampled_from(("h100", "a100-40", "h200")),
    per_node=st.sampled_from((4, 8)),
)
def test_ranked_are_accepted_and_refused_are_not(
    folder: Path, name: str, gpus: int, rows: int, gpu: str, per_node: int
) -> None:
    shape, cluster = SHAPES[name], Cluster(GPUS[gpu], gpus, per_node, 50e9)
    config = config_of(folder, rows)
    plan = make_plan(config, shape, cluster, gpus)
    speeds = [choice.speed.tokens_per_second for choice in plan.ranked]
    assert speeds == sorted(speeds, reverse=True)
    for choice in plan.ranked:
        assert check_config(choice.config, shape, None, gpus) == choice.setup.layout
        assert choice.peak.total <= cluster.gpu.memory
        assert choice.setup.layout.tensor <= per_node
    for refused in plan.refused:
        layout = refused.layout
        parallel = replace(config.parallel, tensor=layout.tensor, pipeline=layout.pipeline, data=layout.data)
        one = replace(config, parallel=parallel)
        if "several nodes" not in refused.reason and " GB on each rank" not in refused.reason:
            with pytest.raises(ConfigError) as caught:
                check_config(one, shape, None, gpus)
            assert str(caught.value) == refused.reason
    seen = {(c.setup.layout.tensor, c.setup.layout.pipeline) for c in plan.ranked}
    seen |= {(r.layout.tensor, r.layout.pipeline) for r in plan.refused}
    sizes = [(t, p) for t in range(1, gpus + 1) for p in range(1, gpus + 1) if gpus % (t * p) == 0]
    assert seen >= set(sizes)


# The config's layout and rows; GPUs, a node's; what the refusal says.
REFUSALS = [
    (
        {"tensor": 3},
        64,
        3,
        8,
        "parallel.tensor=3: must divide the attention heads (32); set parallel.tensor to one of",
    ),
    ({"pipeline": 33}, 64, 33, 8, "parallel.pipeline=33: at most the model's layers (32)"),
    ({"data": 3}, 64, 3, 8, "must divide batch.rows (64)"),
    ({"tensor": 2, "data": 2}, 64, 6, 8, "processes=6: must equal tensor 2 x pipeline 1 x data 2 = 4"),
    ({"tensor": 16}, 64, 16, 8, "a tensor group would lie on several nodes of 8 GPUs"),
    ({"tensor": 1, "micro_rows": 2}, 64, 8, 8, "at most the 80 GB of h100; the largest part is activations"),
]


@pytest.mark.parametrize(("parallel", "rows", "gpus", "per_node", "says"), REFUSALS)
def test_refusals(
    folder: Path, parallel: dict[str, Any], rows: int, gpus: int, per_node: int, says: str
) -> None:
    cluster = Cluster(GPUS["h100"], gpus, per_node, 50e9)
    config = config_of(folder, rows, **parallel)
    plan = make_plan(config, SHAPES["llama2-7b"], cluster, gpus)
    assert isinstance(plan.own, Refused)
    assert says in plan.own.reason
    assert "\n" not in plan.own.reason


def test_a_refusal_for_memory_names_what_would_help(folder: Path) -> None:
    cluster = Cluster(GPUS["h100"], 4, 8, 50e9)
    plan = make_plan(config_of(folder), SHAPES["llama2-7b"], cluster, 4)
    assert isinstance(plan.own, Refused)
    assert plan.own.reason.endswith("; set parallel.recompute=selective") or plan.own.reason.endswith(
        "; set parallel.recompute=full"
    )
    said = plan.own.reason.rpartition("=")[2]
    helped = make_plan(config_of(folder, recompute=said), SHAPES["llama2-7b"], cluster, 4)
    assert isinstance(helped.own, Choice)
    assert helped.own in helped.ranked


def test_a_schedule_that_is_not_planned_is_refused(folder: Path) -> None:
    """Rather than told 1F1B's numbers."""
    config = config_of(folder, pipeline=2, schedule="dualpipev")
    refusal = r"parallel\.schedule=dualpipev: .* 1f1b alone; set parallel\.schedule=1f1b"
    with pytest.raises(ConfigError, match=refusal):
        make_plan(config, SHAPES["llama2-7b"], Cluster(GPUS["h100"], 2, 8, 50e9), 2)


def test_no_layout_on_too_few_gpus(folder: Path) -> None:
    plan = make_plan(config_of(folder), SHAPES["llama2-70b"], Cluster(GPUS["a100-40"], 4, 8, 50e9), 4)
    assert plan.ranked == []
    assert isinstance(plan.own, Refused)
    assert "which data ranks do not divide, since a pipeline has ZeRO-1 alone" in plan.own.reason
    assert "no layout of these GPUs helps" in plan.own.reason


def test_the_configs_own_layout_is_ranked_as_it_is(folder: Path) -> None:
    own = config_of(folder, tensor=4, sequence=True, recompute="full")
    plan = make_plan(own, SHAPES["llama2-7b"], Cluster(GPUS["h100"], 8, 8, 50e9), 8)
    assert isinstance(plan.own, Choice)
    assert plan.own.setup.layout == Layout(4, 1, 2, True)
    assert plan.own.setup.recompute == "full"
    assert plan.own in plan.ranked
