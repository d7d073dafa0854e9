"""The loss is the mean over the global batch's targets, however they lie: uneven, absent here, absent everywhere."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from rank_pool import RankPool
from tiny import layout, write_config

from trainer.verify.peer import PeerRun, Row, peer_run

LENGTH = 48


def row(targets: tuple[int, ...], seed: int) -> Row:
    """A row of samples of 15 tokens, the last of each being its targets."""
    generator = random.Random(seed)
    return [
        {
            "tokens": [1, *(generator.randrange(3, 1201) for _ in range(14))],
            "trained": [place >= 15 - count for place in range(15)],
            "source": place % 2,
        }
        for place, count in enumerate(targets)
    ]


# Rows are dealt to the data ranks in turn: with two of them the first has no target at all in the first batch.
UNEVEN = [row((0, 0), 1), row((14, 14, 14), 2), row((0, 0, 0), 3), row((1, 0, 2), 4)]
NONE = [row((0, 0, 0), 5 + i) for i in range(4)]
BATCHES = [UNEVEN, NONE, [row((5, 1), 9), row((0, 3), 10), row((14,), 11), row((0, 0, 1), 12)]]


@pytest.fixture(scope="module")
def peer(model: Path) -> PeerRun:
    return peer_run(model, BATCHES)


@pytest.mark.parametrize(
    ("overrides", "processes"),
    [
        (layout(), 1),
        ([*layout(), "batch.micro_rows=2"], 1),
        (layout(1, 1, 2), 2),
        (layout(1, 2), 2),
        (layout(2, 2, sequence=True), 4),
        (layout(2, 2, 2, sequence=True, recompute="full"), 8),
    ],
    ids=lambda value: " ".join(value[:3]) if isinstance(value, list) else str(value),
)
def test_loss_is_the_global_mean(
    overrides: list[str], processes: int, peer: PeerRun, ranks: RankPool, model: Path, tmp_path: Path
) -> None:
    config = write_config(tmp_path / "run.yaml", model, data={"sequence_length": LENGTH})
    answers = ranks.run("train_rows", processes, config=str(config), overrides=overrides, batches=BATCHES)
    reports = answers[0]
    assert [report["targets"] for report in reports] == [45, 0, 24]
    assert [report["loss"] for report in reports] == pytest.approx(peer.losses, rel=1e-5)
    assert [report["grad_norm"] for report in reports] == pytest.approx(peer.norms, rel=1e-5)
    assert reports[1]["loss"] == 0.0
    assert reports[1]["by_source"] == {}

    # The bug looked for: each micro-batch's own mean, and then the mean of those. Here it would be far off.
    micro = [sum(losses) / len(losses) for losses in answers[-1][0]["token_losses"] if losses]
    if processes == 1 and "batch.micro_rows=2" not in overrides:
        assert len(micro) == 2
        assert abs(sum(micro) / 2 - reports[0]["loss"]) > 0.01
