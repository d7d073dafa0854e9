"""Packed samples never see each other, at any stage."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from rank_pool import RankPool
from tiny import layout, write_config

from trainer.verify.peer import Row, Sample, load, sample_losses

LENGTH = 64
SIZES = (20, 17, 22)  # 5 tokens of padding


def draw(size: int, seed: int) -> Sample:
    """Tokens at random, about every second one a target."""
    generator = random.Random(seed)
    tokens = [1, *(generator.randrange(3, 1201) for _ in range(size - 1))]
    return {
        "tokens": tokens,
        "trained": [False, *(generator.random() < 0.5 for _ in tokens[1:])],
        "source": 0,
    }


def by_sample(losses: list[list[float]], rows: list[Row], micro_rows: int) -> list[list[list[float]]]:
    """The losses of each sample [row][sample][target], from those of each micro-batch in the order [s, b]."""
    split: list[list[list[float]]] = []
    for number, micro in enumerate(losses):
        group = rows[number * micro_rows : (number + 1) * micro_rows]
        places = [
            (place, b, sample)
            for b, row in enumerate(group)
            for place, (sample, trained) in enumerate(
                (index, trained) for index, one in enumerate(row) for trained in one["trained"]
            )
            if trained
        ]
        taken: list[list[list[float]]] = [[[] for _ in row] for row in group]
        for (_, b, sample), loss in zip(sorted(places), micro, strict=True):
            taken[b][sample].append(loss)
        split += taken
    return split


@pytest.mark.parametrize(
    ("overrides", "processes", "micro_rows"),
    [
        (layout(1, 3), 3, 1),
        (layout(1, 4, recompute="full"), 4, 2),
        (layout(2, 3, sequence=True, recompute="selective"), 6, 1),
    ],
    ids=["PP3", "PP4 recompute full, micro_rows 2", "TP2 PP3 sequence, recompute selective"],
)
def test_changing_one_sample_leaves_its_neighbours_alone(
    overrides: list[str], processes: int, micro_rows: int, ranks: RankPool, model: Path, tmp_path: Path
) -> None:
    batch = {"rows": 4, "micro_rows": micro_rows}
    config = write_config(tmp_path / "run.yaml", model, data={"sequence_length": LENGTH}, batch=batch)
    first, second, third = (draw(size, seed) for seed, size in enumerate(SIZES))
    # One global batch, so that all rows meet the same weights.
    rows: list[Row] = [
        [first, second, third],
        [first, draw(SIZES[1], 7), third],
        [draw(SIZES[0], 8), second, third],
        [second, third, first],
    ]
    answers = ranks.run(
        "train_rows",
        processes,
        config=str(config),
        overrides=[*overrides, f"batch.micro_rows={micro_rows}"],
        batches=[rows],
    )
    losses = by_sample(answers[-1][0]["token_losses"], rows, micro_rows)
    original, middle_changed, first_changed, moved = losses
    assert middle_changed[0] == original[0]
    assert middle_changed[1] != original[1]
    assert middle_changed[2] == original[2]
    assert first_changed[0] != original[0]
    assert first_changed[1:] == original[1:]
    for there, here in zip(moved, (original[1], original[2], original[0]), strict=True):
        assert there == pytest.approx(here, abs=2e-6)  # elsewhere in the row: the same but for rounding

    peer = load(model)
    with torch.no_grad():
        for row, found in zip(rows, losses, strict=True):
            for sample, values in zip(row, found, strict=True):
                assert values == pytest.approx(sample_losses(peer, sample).tolist(), rel=1e-5, abs=1e-5)
