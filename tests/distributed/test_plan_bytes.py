"""The plan's bytes beside those that real ranks hold, keep and send, counted by torch's storages and calls."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path
from typing import Any

import pytest
from rank_pool import RankPool
from test_meta_build import rank_of
from tiny import layout, write_config, write_model

from configs.check import check_config
from configs.gpus import GPUS
from configs.layout import Layout
from configs.load import load_config
from configs.shapes import SHAPES, ModelShape
from trainer.plan.activations import layer_kept
from trainer.plan.memory import rank_memory
from trainer.plan.setup import Cluster, Setup
from trainer.plan.states import BUCKET, held, states
from trainer.plan.traffic import data_traffic, pipeline_bytes, tensor_calls

GROUPED: dict[str, Any] = {
    "hidden_size": 256,
    "intermediate_size": 640,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
}
WHOLE: dict[str, Any] = GROUPED | {
    "num_key_value_heads": 8,
    "intermediate_size": 448,
    "vocab_size": 4000,
    "num_hidden_layers": 3,
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Grouped queries with a vocabulary that tensor ranks have to pad, and neither."""
    folder = tmp_path_factory.mktemp("models")
    return {
        "grouped": write_model(folder / "grouped", **GROUPED),
        "whole": write_model(folder / "whole", **WHOLE),
        "tied": write_model(folder / "tied", tie_word_embeddings=True, **GROUPED),
    }


def settings_of(model: Path, folder: Path, dtype: str, rows: int, micro_rows: int) -> Path:
    sections: dict[str, Any] = {
        "model": {"dtype": dtype},
        "batch": {"rows": rows, "micro_rows": micro_rows},
    }
    return write_config(folder / "run.yaml", model, **sections)


def setup_of(config: Path, overrides: list[str]) -> Setup:
    settings = load_config(config, overrides)
    shape = ModelShape.from_folder(settings.model.path)
    found = check_config(settings, shape, None, None)
    return Setup.of(settings, shape, found, Cluster(GPUS["h100"], found.world_size, 8, 50e9))


# tensor, pipeline, data, sequence; recompute; precision; rows, micro_rows; model
STEPS = [
    pytest.param((1, 1, 1, False), "none", "bfloat16", 4, 1, "grouped", marks=pytest.mark.long),
    ((1, 1, 3, False), "selective", "bfloat16", 6, 1, "whole"),  # padded to a multiple of 6
    ((1, 2, 1, False), "full", "bfloat16", 4, 1, "tied"),
    pytest.param((2, 2, 1, False), "none", "bfloat16", 4, 1, "grouped", marks=pytest.mark.long),
    ((2, 2, 1, True), "selective", "bfloat16", 8, 2, "grouped"),
    pytest.param((2, 2, 1, True), "full", "bfloat16", 8, 2, "grouped", marks=pytest.mark.long),
    ((2, 1, 2, True), "none", "bfloat16", 4, 1, "whole"),
    pytest.param((1, 4, 1, False), "none", "bfloat16", 16, 2, "grouped", marks=pytest.mark.long),
    ((2, 2, 1, True), "none", "float32", 4, 1, "grouped"),
    pytest.param((1, 1, 2, False), "full", "float32", 4, 1, "whole", marks=pytest.mark.long),
]


@pytest.mark.parametrize(("sizes", "mode", "dtype", "rows", "micro_rows", "model"), STEPS)
def test_what_a_rank_holds_in_a_step(
    sizes: tuple[int, int, int, bool],
    mode: str,
    dtype: str,
    rows: int,
    micro_rows: int,
    model: str,
    ranks: RankPool,
    models: dict[str, Path],
    tmp_path: Path,
) -> None:
    config = settings_of(models[model], tmp_path, dtype, rows, micro_rows)
    *counts, sequence = sizes
    overrides = layout(*counts, sequence=sequence, recompute=mode)
    setup = setup_of(config, overrides)
    found = ranks.run(
        "memory_tasks.step_bytes", setup.layout.world_size, config=str(config), overrides=overrides
    )
    written = json.loads((config.with_suffix("") / "plan.json").read_text())
    assert written["torch_peak_bytes"] == max(
        rank_memory(setup, stage).torch for stage in range(setup.layout.pipeline)
    )
    # Reserved in any case, and more than all else of so small a model.
    reserved = 8 * BUCKET if dtype == "float32" else 0
    for stage in range(setup.layout.pipeline):
        first = setup.layout.tensor * setup.layout.data * stage
        here = found[first : first + setup.layout.tensor * setup.layout.data]
        memory, steady = rank_memory(setup, stage), states(setup, stage)
        for rank in here:
            assert rank["parameters"] == held(setup, stage).numbers
            assert rank["weights"] == steady.weights
            assert rank["gradients"] == (steady.gradients if dtype == "bfloat16" else 0)  # else .grad
            assert rank["optimizer"] == steady.optimizer
        fullest = max(rank["peak"] for rank in here)
        assert memory.torch - reserved == pytest.approx(fullest - reserved, rel=0.05)


KEPT = [
    (1, False, mode, dtype, micro_rows, model)
    for mode in ("none", "selective", "full")
    for dtype, micro_rows, model in (
        ("bfloat16", 1, "grouped"),
        ("bfloat16", 3, "whole"),
        ("float32", 2, "grouped"),
    )
] + [
    (2, sequence, mode, "bfloat16", micro_rows, "grouped")
    for sequence, micro_rows in ((False, 2), (True, 1), (True, 2))
    for mode in ("none", "selective", "full")
]


@pytest.mark.parametrize(("tensor", "sequence", "mode", "dtype", "micro_rows", "model"), KEPT)
def test_what_a_layer_keeps_for_its_backward_pass(
    tensor: int,
    sequence: bool,
    mode: str,
    dtype: str,
    micro_rows: int,
    model: str,
    ranks: RankPool,
    models: dict[str, Path],
    tmp_path: Path,
) -> None:
    """To the byte: the CPU's flash attention keeps what CUDA's does, its random state apart."""
    length = 64
    kept = ranks.run(
        "memory_tasks.kept_by_layer",
        tensor,
        shape=str(models[model]),
        sizes=[tensor, 1, 1],
        sequence=sequence,
        mode=mode,
        dtype=dtype,
        length=length,
        micro_rows=micro_rows,
    )
    config = settings_of(models[model], tmp_path, dtype, 2 * micro_rows, micro_rows)
    overrides = layout(tensor, sequence=sequence, recompute=mode)
    setup = setup_of(config, [*overrides, f"data.sequence_length={length}"])
    shape = (
        setup.shape
    )  # the table of angles and the positions are those of all layers, and counted once for a rank
    shared = setup.item * shape.max_positions * shape.head_dim + 8 * length * micro_rows
    for storages in kept:
        assert sum(size for size, *_ in storages) == layer_kept(setup) + (0 if mode == "full" else shared)


@pytest.mark.parametrize(
    ("sizes", "mode", "model"),
    [
        ((2, 2, 1, False), "none", "grouped"),
        pytest.param((2, 2, 1, False), "full", "whole", marks=pytest.mark.long),
        ((2, 2, 1, True), "selective", "whole"),
        pytest.param((2, 2, 1, True), "full", "grouped", marks=pytest.mark.long),
        ((1, 2, 2, False), "none", "tied"),
    ],
)
def test_what_a_rank_sends_in_a_step(
    sizes: tuple[int, int, int, bool],
    mode: str,
    model: str,
    ranks: RankPool,
    models: dict[str, Path],
    tmp_path: Path,
) -> None:
    config = settings_of(models[model], tmp_path, "bfloat16", 8, 2)
    *counts, sequence = sizes
    overrides = layout(*counts, sequence=sequence, recompute=mode)
    setup = setup_of(config, overrides)
    found = ranks.run(
        "memory_tasks.step_traffic", setup.layout.world_size, config=str(config), overrides=overrides
    )
    m, whole = setup.micro_batches, setup.layout
    for stage in range(whole.pipeline):
        rank = whole.tensor * whole.data * stage
        sent = {key: tuple(value) for key, value in found[rank].items()}
        calls = tensor_calls(setup, stage)
        # The first step tells the next stage shapes; this is a later one.
        assert sent.get("send", (0, 0))[1] == m * pipeline_bytes(setup, stage)
        if whole.tensor > 1:
            # A row's last token has no target: one place of each is missing in the loss.
            missing = setup.micro_rows * (2 * setup.shape.hidden + 12) if setup.last(stage) else 0
            assert sent["tensor all_reduce"] == (m * calls.all_reduces, m * (calls.all_reduced - missing))
            gathers = sent.get("tensor gather", (0, 0))
            assert gathers == (m * calls.gathers, m * calls.gathered)
        if whole.data > 1:
            traffic = data_traffic(setup, stage)
            half = (whole.data - 1) / whole.data
            loss = 4 if setup.last(stage) else 0  # bytes: DeepSpeed's own mean of the losses
            assert (sent["data all_reduce"][1] - loss) * 2 * half == traffic.gradients
            assert sent["data gather"][1] * half == traffic.weights
        if setup.shape.tied:
            norm = 4  # bytes: the gradient norm is summed over the same ranks
            assert sent["tied all_reduce"] == (2, data_traffic(setup, stage).tied + norm)


def test_each_rank_of_a_70b_holds_what_the_plan_says(ranks: RankPool, tmp_path: Path) -> None:
    """Tensor 8 x pipeline 4, built on the meta device, rank by rank."""
    shape = SHAPES["llama2-70b"]
    (tmp_path / "config.json").write_text(json.dumps(shape.hf_config()))
    sizes = Layout(8, 4, 1, sequence=True)
    setup = Setup(shape, sizes, Cluster(GPUS["h100"], 32, 8, 50e9), 2, "selective", 4096, 64, 1)
    asked = [rank_of(sizes, t, stage) for stage in range(4) for t in range(8)]
    found = ranks.run(
        "stage_parameters", 1, shape=str(tmp_path), sequence_length=4096, sizes=[8, 4, 1], ranks=asked
    )[0]
    for rank in asked:
        numbers = sum(prod(size) for size in found[str(rank)].values())
        assert numbers == held(setup, rank // 8).numbers
