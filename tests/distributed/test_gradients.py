"""Every parameter's gradient against transformers', and training in bfloat16."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from rank_pool import RankPool
from safetensors.torch import load_file
from tiny import layout, read_weights, write_config, write_model

from configs.load import load_config
from trainer.data.open import open_stream
from trainer.verify.peer import PeerRun, Row, peer_run, unpack

BETA1 = 0.9
UNCLIPPED = ["optimizer.clip=0", "train.steps=1"]


def first_batch(config: Path) -> list[Row]:
    settings = load_config(config)
    stream = open_stream(settings)
    rows = [next(stream) for _ in range(settings.batch.rows)]
    return [unpack(row.tokens, row.labels, row.positions, row.filled) for row in rows]


def gradients(checkpoint: Path, shapes: dict[str, torch.Size]) -> dict[str, torch.Tensor]:
    """Whole gradients under Hugging Face names, from the first moments after one step without clipping.

    AdamW's first moment is then (1 - beta1) times the gradient. Slices lie side by side along whichever
    dimension is too short for the whole.
    """
    slices: dict[str, list[torch.Tensor]] = {}
    for file in sorted((checkpoint / "training_state").glob("*.safetensors")):
        for key, tensor in load_file(file).items():
            name, kind = key.split("/")
            if kind == "exp_avg":
                slices.setdefault(name, []).append(tensor / (1 - BETA1))
    whole: dict[str, torch.Tensor] = {}
    for name, shape in shapes.items():
        parts = slices[name]
        if parts[0].shape == shape:
            whole[name] = parts[0]
        else:
            along = 1 if parts[0].shape[0] == shape[0] else 0
            whole[name] = torch.cat(parts, dim=along)[: shape[0]]
    return whole


def run_one_step(ranks: RankPool, config: Path, overrides: list[str], processes: int) -> Path:
    ranks.run("train_run", processes, config=str(config), overrides=[*overrides, *UNCLIPPED])
    return Path(load_config(config).run.output_dir) / "checkpoints/step-00000001"


def compare(model: Path, checkpoint: Path, peer: PeerRun) -> dict[str, tuple[float, float]]:
    """Of each parameter's gradient: the cosine with the peer's, and the relative error of its norm."""
    shapes = {name: weight.shape for name, weight in read_weights(model).items()}
    ours = gradients(checkpoint, shapes)
    assert ours.keys() == peer.gradients.keys()
    found: dict[str, tuple[float, float]] = {}
    for name, theirs in peer.gradients.items():
        a, b = ours[name].double().flatten(), theirs.double().flatten()
        found[name] = float(a @ b / (a.norm() * b.norm())), abs(float(a.norm() / b.norm()) - 1)
    return found


@pytest.mark.parametrize(
    ("overrides", "processes"),
    [(layout(), 1), (layout(2, 2, sequence=True), 4), (layout(4, 1, 2, sequence=True, recompute="full"), 8)],
    ids=["TP1 PP1", "TP2 PP2 sequence", "TP4 DP2 sequence, recompute full"],
)
def test_float32(overrides: list[str], processes: int, ranks: RankPool, model: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path / "run.yaml", model)
    checkpoint = run_one_step(ranks, config, overrides, processes)
    peer = peer_run(model, [first_batch(config)], clip=0)
    for name, (cosine, error) in compare(model, checkpoint, peer).items():
        assert cosine > 1 - 1e-9, f"{name}: cosine {cosine}"
        assert error < 1e-5, f"{name}: norm is off by {error:.1e}"


@pytest.fixture(scope="module", params=["untied", "tied"])
def bfloat16_model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the head is tied and there are stages, two of them hold the weight and each has a part of its gradient."""
    changes: dict[str, Any] = {"tie_word_embeddings": request.param == "tied", "initializer_range": 0.05}
    return write_model(tmp_path_factory.mktemp(request.param), dtype=torch.bfloat16, **changes)


@pytest.mark.parametrize(
    ("overrides", "processes"),
    [
        pytest.param(layout(), 1, marks=pytest.mark.long),
        (layout(2, 2, sequence=True), 4),
        pytest.param(layout(1, 2), 2, marks=pytest.mark.long),
    ],
    ids=["TP1 PP1", "TP2 PP2 sequence", "TP1 PP2"],
)
def test_bfloat16(
    overrides: list[str], processes: int, ranks: RankPool, bfloat16_model: Path, tmp_path: Path
) -> None:
    config = write_config(tmp_path / "run.yaml", bfloat16_model, model={"dtype": "bfloat16"})
    checkpoint = run_one_step(ranks, config, overrides, processes)
    peer = peer_run(bfloat16_model, [first_batch(config)], clip=0, dtype=torch.bfloat16)
    found = compare(bfloat16_model, checkpoint, peer)
    for name, (cosine, _) in found.items():
        assert cosine > 0.999, f"{name}: cosine {cosine}"


@pytest.mark.parametrize(
    "bfloat16_model", ["untied", pytest.param("tied", marks=pytest.mark.long)], indirect=True
)
def test_bfloat16_trains(ranks: RankPool, bfloat16_model: Path, tmp_path: Path) -> None:
    settings = {"model": {"dtype": "bfloat16"}, "optimizer": {"lr": 1e-3}}
    config = write_config(tmp_path / "run.yaml", bfloat16_model, **settings)
    reports = ranks.run("train_steps", 4, config=str(config), overrides=layout(2, 2), steps=10)[0]
    peer = peer_run(bfloat16_model, [first_batch(config)], dtype=torch.bfloat16)
    assert reports[0]["loss"] == pytest.approx(peer.losses[0], rel=0.001)
    assert reports[0]["grad_norm"] == pytest.approx(peer.norms[0], rel=0.005)
    losses = [report["loss"] for report in reports]
    assert losses[-1] < losses[0] - 0.5
