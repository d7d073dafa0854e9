"""Norms by layer: against transformers' gradients and the weights on disk, and none in a step that asks for none."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from math import sqrt
from pathlib import Path

import pytest
import torch
from rank_pool import RankPool
from test_gradients import first_batch
from tiny import layout, read_weights, write_config

from trainer.verify.peer import peer_run

ENDS = {"model.embed_tokens.weight": "embedding", "model.norm.weight": "norm", "lm_head.weight": "head"}


def by_layer(tensors: Mapping[str, torch.Tensor]) -> dict[str, float]:
    """Norms of Hugging Face tensors, together as layers are named."""
    squares: defaultdict[str, float] = defaultdict(float)
    for name, tensor in tensors.items():
        layer = re.match(r"model\.layers\.(\d+)\.", name)
        squares[f"layer_{int(layer[1]):02}" if layer else ENDS[name]] += float(tensor.double().square().sum())
    return {name: sqrt(square) for name, square in squares.items()}


@pytest.mark.parametrize(
    ("overrides", "processes", "tied"),
    [
        (layout(), 1, False),
        (layout(2, 2, sequence=True), 4, False),
        (layout(2, 1, 2), 4, True),
        (layout(1, 2), 2, True),
        ([*layout(1, 2), "parallel.schedule=dualpipev"], 2, False),
    ],
    ids=["one rank", "TP2 PP2 sequence", "TP2 DP2 tied", "PP2 tied", "PP2 dualpipev"],
)
def test_are_those_of_transformers(
    overrides: list[str],
    processes: int,
    tied: bool,
    ranks: RankPool,
    model: Path,
    tied_model: Path,
    tmp_path: Path,
) -> None:
    folder = tied_model if tied else model
    config = write_config(tmp_path / "run.yaml", folder)
    asked = [*overrides, "train.layer_norms_every=1"]
    (report,) = ranks.run("train_steps", processes, config=str(config), overrides=asked, steps=1)[0]
    peer = peer_run(folder, [first_batch(config)], clip=0)
    assert report["grad_norm_by_layer"] == pytest.approx(by_layer(peer.gradients), rel=1e-5)
    assert report["weight_norm_by_layer"] == pytest.approx(by_layer(read_weights(folder)), rel=1e-6)


def test_bfloat16_and_clipping_keep_the_whole(ranks: RankPool, model: Path, tmp_path: Path) -> None:
    """On every rank, all layers together are the global norm before clipping; and only steps that ask have any."""
    config = write_config(tmp_path / "run.yaml", model)
    asked = [*layout(2, 1, 2), "model.dtype=bfloat16", "optimizer.clip=0.01", "train.layer_norms_every=2"]
    told = ranks.run("train_steps", 4, config=str(config), overrides=asked, steps=4)
    by_layer = [[report["grad_norm_by_layer"] for report in reports] for reports in told]
    assert all(one == by_layer[0] for one in by_layer)
    assert [bool(report["grad_norm_by_layer"]) for report in told[0]] == [False, True, False, True]
    for report in told[0][1::2]:
        together = sqrt(sum(norm**2 for norm in report["grad_norm_by_layer"].values()))
        assert together == pytest.approx(report["grad_norm"], rel=1e-5)
        assert report["grad_norm"] > 0.01
