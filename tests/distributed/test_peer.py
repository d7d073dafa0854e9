"""The same weights and samples through transformers, sample by sample, with torch's AdamW."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from rank_pool import RankPool
from tiny import layout, read_weights, write_config

from configs.load import load_config
from trainer.data.open import open_stream
from trainer.verify.peer import PeerRun, Row, peer_run, unpack

STEPS = 5
LAYOUTS = {
    "TP2 PP2": (layout(2, 2), 4),
    "TP2 PP2 sequence": (layout(2, 2, sequence=True), 4),
    "TP1 PP2": (layout(1, 2), 2),
    "TP1 PP1": (layout(), 1),
}


@dataclass(frozen=True)
class Pair:
    config: Path
    peer: PeerRun


@pytest.fixture(scope="module", params=["untied", "tied"])
def pair(
    request: pytest.FixtureRequest, model: Path, tied_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Pair:
    folder = tied_model if request.param == "tied" else model
    file = tmp_path_factory.mktemp("peer") / "run.yaml"
    config = write_config(file, folder, data={"sequence_length": 512})
    return Pair(config, peer_run(folder, stream_batches(config, STEPS)))


def stream_batches(config: Path, steps: int) -> list[list[Row]]:
    """The samples of each global batch of a run, taken out of their rows."""
    settings = load_config(config)
    stream = open_stream(settings)
    batches: list[list[Row]] = []
    for _ in range(steps):
        rows = [next(stream) for _ in range(settings.batch.rows)]
        batches.append([unpack(row.tokens, row.labels, row.positions, row.filled) for row in rows])
    return batches


@pytest.mark.parametrize(
    "name",
    [
        "TP2 PP2 sequence",
        "TP1 PP1",
        *(pytest.param(name, marks=pytest.mark.long) for name in ("TP2 PP2", "TP1 PP2")),
    ],
)
def test_five_steps(name: str, pair: Pair, ranks: RankPool, tmp_path: Path) -> None:
    overrides, processes = LAYOUTS[name]
    folder = tmp_path / "exported"
    reports = ranks.run(
        "train_steps",
        processes,
        config=str(pair.config),
        overrides=overrides,
        steps=STEPS,
        export=str(folder),
    )[0]
    assert [report["loss"] for report in reports] == pytest.approx(pair.peer.losses, rel=1e-5)
    assert [report["grad_norm"] for report in reports] == pytest.approx(pair.peer.norms, rel=1e-5)
    ours, theirs = read_weights(folder), dict(pair.peer.model.named_parameters())
    assert ours.keys() == theirs.keys()
    for key, weight in theirs.items():
        difference = (ours[key] - weight.detach()).abs().max().item()
        assert difference < 1e-5, f"{key} is off by {difference:.1e} after {STEPS} steps"


def test_the_update_is_far_larger_than_the_tolerance(pair: Pair) -> None:
    """Five steps of AdamW at 5e-5 move a weight by about 2.5e-4."""
    before = read_weights(Path(load_config(pair.config).model.path))
    for key, weight in pair.peer.model.named_parameters():
        assert (weight.detach() - before[key]).abs().max().item() > 1e-4
