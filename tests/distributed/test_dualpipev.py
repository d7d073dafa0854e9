"""DualPipeV trains as 1F1B does: the same losses, norms and weights, and checkpoints that either goes on from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from layout_table import REFERENCE, TOLERANCE, Case, Curve, case, curve
from rank_pool import RankPool
from test_any_layout import SHARD, Size, assert_same, go_on, straight_run
from tiny import layout, read_weights, write_config, write_model

LAYERS, ROWS = 7, 8
"""More layers than parts, so that parts are uneven; and micro-batches enough for three ranks, or for two copies."""
CASES = (
    pytest.param(case(1, 2, schedule="dualpipev"), marks=pytest.mark.long),
    case(1, 3, recompute="selective", schedule="dualpipev"),
    case(1, 2, 2, schedule="dualpipev"),
    case(2, 2, sequence=True, recompute="full", schedule="dualpipev"),
    pytest.param(case(1, 2, micro_rows=2, schedule="dualpipev"), marks=pytest.mark.long),
)


def written(folder: Path, /, **changes: Any) -> Path:
    """A config of a model of so many layers."""
    model = write_model(folder / "model", num_hidden_layers=LAYERS, **changes)
    return write_config(folder / "run.yaml", model, batch={"rows": ROWS})


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("untied"))


@pytest.fixture(scope="module")
def reference(ranks: RankPool, config: Path) -> Curve:
    """One process."""
    return curve(ranks, config, REFERENCE)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_losses_and_norms(case: Case, ranks: RankPool, config: Path, reference: Curve) -> None:
    assert max(curve(ranks, config, case).distance(reference)) < TOLERANCE


def test_a_tied_head(ranks: RankPool, tmp_path: Path) -> None:
    """Its rank has the embedding once, with gradients of both ends."""
    config = written(tmp_path, tie_word_embeddings=True)
    folded = curve(ranks, config, case(1, 2, schedule="dualpipev"))
    assert max(folded.distance(curve(ranks, config, REFERENCE))) < TOLERANCE


def test_bfloat16_beside_1f1b(ranks: RankPool, config: Path, tmp_path: Path) -> None:
    """On as many ranks: what three steps have made of losses and weights."""
    losses: list[list[float]] = []
    weights: list[dict[str, torch.Tensor]] = []
    for schedule in ("1f1b", "dualpipev"):
        run = [f"run.output_dir={tmp_path}/{schedule}", "model.dtype=bfloat16"]
        overrides, export = [*layout(1, 2, schedule=schedule), *run], tmp_path / f"{schedule}-weights"
        answers = ranks.run(
            "train_steps", 2, config=str(config), overrides=overrides, steps=3, export=str(export)
        )
        losses.append([report["loss"] for report in answers[0]])
        weights.append(read_weights(export))
    # bfloat16 keeps 8 bits of a number; gradients are summed in float32, in the same order under both.
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    assert weights[1].keys() == weights[0].keys()
    for name, weight in weights[0].items():
        apart = (weights[1][name].float() - weight.float()).abs().max() / weight.float().abs().max()
        assert apart < 1e-2, name


@pytest.mark.parametrize("tied", [False, pytest.param(True, marks=pytest.mark.long)], ids=["untied", "tied"])
def test_checkpoints_there_and_back(tied: bool, ranks: RankPool, tmp_path: Path) -> None:
    """Written under DualPipeV, read on other layouts under 1F1B and DualPipeV: bit by bit, and the next loss."""
    model = write_model(tmp_path / "model", num_hidden_layers=LAYERS, tie_word_embeddings=tied)
    first = Size(2, 2, 1, "dualpipev")
    sections: dict[str, dict[str, Any]] = {"batch": {"rows": ROWS}, "train": {"steps": 3}}
    straight = straight_run(ranks, model, tmp_path, first, **sections)
    checkpoint = straight.checkpoint
    chain = [Size(1, 1, 2), Size(1, 2, 2, "dualpipev"), Size(1, 3, 1)]
    for number, size in enumerate(chain[:1] if tied else chain):
        checkpoint = go_on(ranks, straight, size, checkpoint, tmp_path / str(number))


def test_bfloat16_goes_on_under_the_other(ranks: RankPool, tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", num_hidden_layers=LAYERS)
    sections: dict[str, dict[str, Any]] = {
        **{"model": {"dtype": "bfloat16"}, "batch": {"rows": ROWS}},
        "train": {"steps": 3},
    }
    straight = straight_run(ranks, model, tmp_path, Size(1, 2, 1, "dualpipev"), **sections)
    settings = [
        *Size(2, 2, 1).overrides,
        *(f"checkpoint.resume={straight.checkpoint}", f"run.output_dir={tmp_path}/on"),
    ]
    losses = ranks.run("save_and_go_on", 4, config=str(straight.config), overrides=settings, max_bytes=SHARD)
    assert losses[0] == pytest.approx(straight.losses[0], rel=1e-2)  # bfloat16 sums in another order
    assert_same(tmp_path / "on/checkpoints" / straight.checkpoint.name, straight.checkpoint)
