"""A checkpoint goes on with any layout: bit by bit the same state, the same losses."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from rank_pool import RankPool
from safetensors.torch import load_file
from tiny import layout, read_weights, write_config, write_model

KINDS = ("master", "exp_avg", "exp_avg_sq")
SHARD = 150_000
"""Bytes of a weight file, so that data ranks have some to divide."""


class Size(NamedTuple):
    tensor: int
    pipeline: int
    data: int
    schedule: str = "1f1b"

    @property
    def processes(self) -> int:
        return self.tensor * self.pipeline * self.data

    @property
    def overrides(self) -> list[str]:
        sizes = (self.tensor, self.pipeline, self.data)
        return layout(*sizes, sequence=self.tensor > 2, schedule=self.schedule)

    def __str__(self) -> str:
        sizes = f"{self.tensor}x{self.pipeline}x{self.data}"
        return sizes if self.schedule == "1f1b" else f"{sizes} {self.schedule}"


CHAIN = [
    Size(2, 2, 1),
    Size(1, 1, 1),
    Size(4, 1, 2),
    Size(1, 4, 1),
    Size(2, 1, 2),
    Size(1, 2, 4),
    Size(2, 2, 2),
    Size(1, 1, 4),
    Size(2, 4, 1),
    Size(4, 2, 1),
]
"""Each goes on from what the one before has saved."""
OTHERS = [
    *(Size(1, 1, 2), Size(1, 2, 1), Size(1, 2, 2), Size(1, 3, 2)),
    *(Size(1, 4, 2), Size(2, 1, 1), Size(2, 1, 4), Size(4, 1, 1)),
]
EIGHTS = [Size(8, 1, 1), Size(1, 8, 1), Size(1, 1, 8)]
SMALL = CHAIN + OTHERS
ALL = SMALL + EIGHTS
"""All of up to 8 ranks in powers of two, and one more."""

LONG = os.environ.get("ALL_LAYOUTS") == "1"
"""Each of these 21 from each other, with an untied and with a tied head: 2 x 420 pairs."""
DONE, MORE = 2, 20 if LONG else 8
"""Steps before the checkpoint and after it."""
HEADS = ["untied", "tied"] if LONG else ["untied"]
WIDE = [f"{head}-wide" for head in HEADS]
"""Of a model that eight ranks of a kind can divide: it has a KV head for each of them, as a 70B model is trained."""


class Straight(NamedTuple):
    """A run that was never interrupted."""

    config: Path
    checkpoint: Path
    """After DONE steps."""
    losses: list[float]
    """Of the steps after those."""


def straight_run(
    ranks: RankPool, model: Path, folder: Path, first: Size = CHAIN[0], /, **changes: dict[str, Any]
) -> Straight:
    sections: dict[str, dict[str, Any]] = {"train": {"steps": DONE + MORE}, "checkpoint": {"every": DONE}}
    optimizer = {"lr": 1e-3, "schedule": "cosine", "warmup_ratio": 0.3}
    config = write_config(folder / "run.yaml", model, optimizer=optimizer, **sections | changes)
    ranks.run("train_run", first.processes, config=str(config), overrides=first.overrides, max_bytes=SHARD)
    metrics = [json.loads(line) for line in (folder / "run/metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in metrics[DONE:]]
    return Straight(config, folder / "run/checkpoints" / f"step-{DONE:08d}", losses)


@pytest.fixture(scope="module")
def made() -> dict[str, Straight]:
    """Runs of the models, each made when it is first asked for."""
    return {}


@pytest.fixture
def straight(
    request: pytest.FixtureRequest,
    made: dict[str, Straight],
    ranks: RankPool,
    tmp_path_factory: pytest.TempPathFactory,
) -> Straight:
    """Of the model a test names."""
    name = request.param
    if name not in made:
        made[name] = straight_run_of(name, ranks, tmp_path_factory.mktemp(name))
    return made[name]


def straight_run_of(name: str, ranks: RankPool, folder: Path) -> Straight:
    changes: dict[str, Any] = {"tie_word_embeddings": not name.startswith("untied")}
    if name not in WIDE:
        return straight_run(ranks, write_model(folder / "model", **changes), folder)
    changes |= {"num_attention_heads": 16, "num_key_value_heads": 8, "num_hidden_layers": 8}
    steps = DONE + (MORE if LONG else 1)
    model = write_model(folder / "model", **changes)
    return straight_run(ranks, model, folder, train={"steps": steps}, batch={"rows": 8})


def gathered(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Weights and training state of a checkpoint, whole, put together by what `tensors.json` says."""
    folder = checkpoint / "training_state"
    files = {file.name: load_file(file) for file in folder.glob("*.safetensors")}
    whole = read_weights(checkpoint)
    shapes = {name: weight.shape for name, weight in whole.items()}
    for name, parts in json.loads((folder / "tensors.json").read_text()).items():
        for kind in KINDS:
            held = [files[file].pop(f"{name}/{kind}") for _, _, file in parts]
            rows = sum(part.shape[0] for part in held) == shapes[name][0]
            whole[f"{name}/{kind}"] = torch.cat(held, dim=0 if rows else 1)
            assert whole[f"{name}/{kind}"].shape == shapes[name]
    assert not any(files.values()), "a file holds more than is listed"
    return whole


def assert_same(ours: Path, theirs: Path) -> None:
    these, those = gathered(ours), gathered(theirs)
    assert these.keys() == those.keys()
    for name, tensor in those.items():
        assert torch.equal(these[name].view(torch.uint8), tensor.view(torch.uint8)), name


def go_on(ranks: RankPool, straight: Straight, size: Size, checkpoint: Path, run: Path) -> Path:
    """Resume from a checkpoint on another layout, which has the same state and next loss; returns what it saved."""
    settings = [*size.overrides, f"checkpoint.resume={checkpoint}", f"run.output_dir={run}"]
    losses = ranks.run(
        "save_and_go_on", size.processes, config=str(straight.config), overrides=settings, max_bytes=SHARD
    )
    assert losses == [pytest.approx(straight.losses[0], rel=1e-6)] * size.processes
    saved = run / "checkpoints" / checkpoint.name
    assert_same(saved, straight.checkpoint)
    return saved


def name(value: Any) -> str:
    """In the name of a test."""
    return f"on {len(value)}" if isinstance(value, list) else str(value)


CHAINS = [*((head, CHAIN[1:]) for head in HEADS), *((head, EIGHTS) for head in WIDE)]


@pytest.mark.parametrize(("straight", "chain"), CHAINS, indirect=["straight"], ids=name)
def test_a_chain_of_layouts(chain: list[Size], ranks: RankPool, straight: Straight, tmp_path: Path) -> None:
    checkpoint = straight.checkpoint
    for number, size in enumerate(chain):
        checkpoint = go_on(ranks, straight, size, checkpoint, tmp_path / str(number))


PAIRS = [(head, first, SMALL) for head in HEADS for first in SMALL]
PAIRS += [(head, first, ALL if first in EIGHTS else EIGHTS) for head in WIDE for first in ALL]


@pytest.mark.parametrize(
    ("straight", "first", "seconds"),
    PAIRS if LONG else [("untied", CHAIN[-2], CHAIN[-1:])],
    indirect=["straight"],
    ids=name,
)
def test_pairs(first: Size, seconds: list[Size], ranks: RankPool, straight: Straight, tmp_path: Path) -> None:
    saved = go_on(ranks, straight, first, straight.checkpoint, tmp_path / "first")
    for number, second in enumerate(seconds):
        if second != first:
            go_on(ranks, straight, second, saved, tmp_path / str(number))


STEPS = [(head, size) for head in HEADS for size in SMALL[1:]] + [
    (head, size) for head in WIDE for size in EIGHTS
]


@pytest.mark.parametrize(
    ("straight", "size"),
    STEPS if LONG else [("untied", Size(1, 1, 2)), ("untied", Size(4, 1, 1))],
    indirect=["straight"],
    ids=name,
)
def test_losses_stay_the_same(size: Size, ranks: RankPool, straight: Straight, tmp_path: Path) -> None:
    """For as many steps as there are, in which rounding adds up."""
    settings = [*size.overrides, f"checkpoint.resume={straight.checkpoint}", f"run.output_dir={tmp_path}"]
    ranks.run(
        "train_run",
        size.processes,
        config=str(straight.config),
        overrides=settings,
        max_bytes=SHARD,
        limit_s=1800,  # 20 steps of eight tensor ranks on two cores take minutes
    )
    metrics = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in metrics] == [DONE + 1 + i for i in range(MORE)]
    assert [line["loss"] for line in metrics] == pytest.approx(straight.losses, rel=1e-5)


def test_bfloat16_and_a_tied_head(ranks: RankPool, tied_model: Path, tmp_path: Path) -> None:
    changes = {"model": {"dtype": "bfloat16"}, "train": {"steps": DONE + 1}}
    tied = straight_run(ranks, tied_model, tmp_path, **changes)
    for size in (Size(1, 4, 1), Size(4, 1, 2)):
        run = tmp_path / f"on{size.processes}"
        settings = [*size.overrides, f"checkpoint.resume={tied.checkpoint}", f"run.output_dir={run}"]
        losses = ranks.run(
            "save_and_go_on", size.processes, config=str(tied.config), overrides=settings, max_bytes=SHARD
        )
        assert losses[0] == pytest.approx(tied.losses[0], rel=1e-2)  # bfloat16 sums in another order
        assert_same(run / "checkpoints" / tied.checkpoint.name, tied.checkpoint)
