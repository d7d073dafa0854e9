"""A run that was interrupted and resumed is bit by bit the run that was not."""

from __future__ import annotations

import json
import shutil
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from jobs import moved_away
from rank_pool import RankError, RankPool
from safetensors.torch import load_file
from tiny import DEMO, layout, write_config

STEPS = 6
FAR = {"optimizer": {"lr": 1e-3, "schedule": "cosine", "warmup_ratio": 0.3}, "train": {"steps": STEPS}}


def measured(run: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without what depends on the clock."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    clock = ("step_seconds", "tokens_per_second", "data_wait_seconds", "memory", "mfu")
    return [{key: value for key, value in line.items() if key not in clock} for line in lines]


def assert_same_tensors(ours: Path, theirs: Path) -> None:
    """All safetensors files below two folders hold the same tensors, bit by bit."""
    files = sorted(file.relative_to(theirs) for file in theirs.rglob("*.safetensors"))
    assert files == sorted(file.relative_to(ours) for file in ours.rglob("*.safetensors"))
    assert any("training_state" in file.parts for file in files)
    for file in files:
        these, those = load_file(ours / file), load_file(theirs / file)
        assert these.keys() == those.keys()
        for name, tensor in those.items():
            assert torch.equal(these[name].view(torch.uint8), tensor.view(torch.uint8)), f"{file}: {name}"


LAYOUTS = {"TP2 PP2 sequence": (layout(2, 2, sequence=True), 4), "DP2": (layout(1, 1, 2), 2)}


@pytest.mark.parametrize(
    ("name", "head", "dtype"),
    [
        ("TP2 PP2 sequence", "untied", "float32"),
        ("TP2 PP2 sequence", "tied", "bfloat16"),
        ("DP2", "untied", "bfloat16"),
        pytest.param("TP2 PP2 sequence", "untied", "bfloat16", marks=pytest.mark.long),
        pytest.param("TP2 PP2 sequence", "tied", "float32", marks=pytest.mark.long),
        pytest.param("DP2", "untied", "float32", marks=pytest.mark.long),
    ],
)
def test_goes_on_bit_by_bit(
    name: str, head: str, dtype: str, ranks: RankPool, model: Path, tied_model: Path, tmp_path: Path
) -> None:
    """The checkpoint of step 6 is lost, as if the run had been killed before it; the run starts again."""
    folder = tied_model if head == "tied" else model
    config = write_config(tmp_path / "run.yaml", folder, model={"dtype": dtype}, **FAR)
    overrides, processes = LAYOUTS[name]

    def start(name: str, every: str) -> Path:
        run = tmp_path / name
        settings = [*overrides, f"run.output_dir={run}", f"checkpoint.every={every}"]
        assert set(ranks.run("train_run", processes, config=str(config), overrides=settings)) == {0}
        return run

    straight, broken = start("straight", "null"), start("broken", "3")
    checkpoints = broken / "checkpoints"
    shutil.rmtree(checkpoints / "step-00000006")
    (checkpoints / "latest").unlink()

    start("broken", "3")
    assert measured(broken) == measured(straight)
    assert [line["step"] for line in measured(broken)] == [1, 2, 3, 4, 5, 6]
    assert len({line["loss"] for line in measured(straight)}) == STEPS
    assert (checkpoints / "latest").read_text().strip() == "step-00000006"
    assert_same_tensors(checkpoints / "step-00000006", straight / "checkpoints/step-00000006")


def test_a_data_rank_reads_only_the_moments_that_it_keeps(
    ranks: RankPool, model: Path, tmp_path: Path
) -> None:
    """Of a large model the rest would be most of what a resume reads."""
    config = write_config(tmp_path / "run.yaml", model, train={"steps": 1})
    assert ranks.run("train_run", 1, config=str(config), overrides=layout(1, 1, 1)) == [0]
    (read,) = ranks.run("read_to_go_on", 1, config=str(config), overrides=layout(1, 1, 1))
    whole = read["master"]
    assert read == dict.fromkeys(("master", "exp_avg", "exp_avg_sq"), whole)
    assert whole > 1201 * 64 * 2
    largest = 1201 * 64  # two ranks may keep a part of one parameter each
    of_all = ranks.run("read_to_go_on", 4, config=str(config), overrides=layout(1, 1, 4))
    assert [each["master"] for each in of_all] == [whole] * 4
    for moment in ("exp_avg", "exp_avg_sq"):
        assert whole <= sum(each.get(moment, 0) for each in of_all) <= whole + 3 * largest


def test_what_is_drawn_goes_on_where_it_stood(ranks: RankPool, model: Path, tmp_path: Path) -> None:
    """A loss with a random factor, which stands where it stood after every stop."""
    config = write_config(tmp_path / "run.yaml", model, **FAR)
    arguments: dict[str, Any] = {"config": str(config), "drawn": True}
    for folder, stops in (("straight", [STEPS]), ("broken", [2, 3, STEPS])):
        for stop in stops:
            settings = [*layout(1, 1, 2), f"run.output_dir={tmp_path / folder}", f"train.steps={stop}"]
            constant = [*settings, "optimizer.schedule=constant", "optimizer.warmup_ratio=0"]
            assert set(ranks.run("train_run", 2, **arguments, overrides=constant)) == {0}
    straight, broken = measured(tmp_path / "straight"), measured(tmp_path / "broken")
    assert broken == straight
    plain = [*layout(1, 1, 2), f"run.output_dir={tmp_path / 'plain'}", "train.steps=1"]
    ranks.run("train_run", 2, config=str(config), overrides=plain)
    assert measured(tmp_path / "plain")[0]["loss"] != straight[0]["loss"]  # something was drawn


@pytest.mark.parametrize(
    ("overrides", "rank", "bytes"),
    [
        pytest.param(layout(2, 2), 2, 1_000, marks=pytest.mark.long),
        (layout(2, 2), 3, 1_000),
        pytest.param(layout(1, 1, 2), 0, 1_000, marks=pytest.mark.long),
        (layout(1, 1, 2), 0, 500_000),
        (layout(2, 1, 2), 1, 1_000),
    ],
    ids=[
        "weights of stage 1",
        "tensor rank 1's state",
        "weights, DP2",
        "state, DP2",
        "tensor rank 1's state, DP2",
    ],
)
def test_a_full_disk_leaves_the_last_checkpoint_in_force(
    overrides: list[str], rank: int, bytes: int, ranks: RankPool, model: Path, tmp_path: Path
) -> None:
    """No rank hangs, all of them fail, and those that could write name the one that could not."""
    config = write_config(tmp_path / "run.yaml", model, train={"steps": 2}, checkpoint={"every": 1})
    processes = prod(int(override.partition("=")[2]) for override in overrides[:3])
    outcomes = ranks.outcomes(
        "train_run",
        processes,
        config=str(config),
        overrides=overrides,
        full_disk={"rank": rank, "step": 2, "bytes": bytes},
        max_bytes=100_000,  # several files, so that others still gather after the first could not be written
        limit_s=60,
    )
    messages = {outcome["rank"]: outcome.get("message", "no error") for outcome in outcomes}
    assert "File too large" in messages.pop(rank)
    assert all(f"rank {rank} could not write" in message for message in messages.values()), messages
    checkpoints = tmp_path / "run/checkpoints"
    assert (checkpoints / "latest").read_text().strip() == "step-00000001"
    assert [folder.name for folder in checkpoints.glob("step-*")] == ["step-00000001"]
    assert set(ranks.run("train_run", processes, config=str(config), overrides=overrides)) == {0}
    assert (checkpoints / "latest").read_text().strip() == "step-00000002"


@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.long), 1])
def test_a_full_disk_in_the_background_ends_the_run_at_one_step(
    rank: int, ranks: RankPool, model: Path, tmp_path: Path
) -> None:
    """Training went on meanwhile; all ranks leave together, and the checkpoint before is in force."""
    config = write_config(tmp_path / "run.yaml", model, train={"steps": 60}, checkpoint={"every": 30})
    fault = {"rank": rank, "step": 60 // 2, "bytes": 20_000}
    arguments: dict[str, Any] = {"config": str(config), "overrides": layout(1, 1, 2), "max_bytes": 100_000}
    shorter: dict[str, Any] = {**arguments, "overrides": [*layout(1, 1, 2), "train.steps=10"]}
    ranks.run("train_run", 2, **shorter)
    outcomes = ranks.outcomes("train_run", 2, **arguments, full_disk=fault, limit_s=60)
    messages = {outcome["rank"]: outcome.get("message", "no error") for outcome in outcomes}
    assert "File too large" in messages.pop(rank)
    assert all(f"rank {rank} could not write" in message for message in messages.values()), messages
    checkpoints = tmp_path / "run/checkpoints"
    assert (checkpoints / "latest").read_text().strip() == "step-00000010"
    steps = [line["step"] for line in measured(tmp_path / "run")]
    assert steps == list(range(1, steps[-1] + 1))
    assert 30 <= steps[-1] < 60  # not all of the rest
    assert set(ranks.run("train_run", 2, **arguments)) == {0}
    assert [line["step"] for line in measured(tmp_path / "run")] == list(range(1, 61))


@pytest.mark.parametrize(
    "overrides", [layout(1, 1, 2), pytest.param(layout(1, 2), marks=pytest.mark.long)], ids=["DP2", "PP2"]
)
def test_steps_go_on_while_a_checkpoint_is_written(
    overrides: list[str], ranks: RankPool, model: Path, tmp_path: Path
) -> None:
    """And the next save waits for it: each is committed, in order."""
    settings: dict[str, Any] = {"train": {"steps": 12}, "checkpoint": {"every": 4}}
    config = write_config(tmp_path / "run.yaml", model, **settings)
    arguments: dict[str, Any] = {"config": str(config), "limit_s": 90}
    assert ranks.run("steps_beside_saves", 2, **arguments, overrides=overrides) == [[4, 8]] * 2
    committed = sorted(folder.name for folder in (tmp_path / "run/checkpoints").glob("step-*"))
    assert committed == ["step-00000004", "step-00000008", "step-00000012"]
    here = [*overrides, "checkpoint.background=false", f"run.output_dir={tmp_path / 'here'}"]
    assert ranks.run("steps_beside_saves", 2, **arguments, overrides=here) == [[], []]


@pytest.fixture(scope="module")
def finished(ranks: RankPool, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config whose run has taken 2 of 2 steps as TP2 PP1, with a checkpoint of each."""
    config = write_config(tmp_path_factory.mktemp("finished") / "run.yaml", model, train={"steps": 2})
    settings = [*layout(2), "checkpoint.every=1"]
    ranks.run("train_run", 2, config=str(config), overrides=settings)
    return config


def test_after_a_change_of_data_a_new_run_begins_as_the_refusal_says(
    ranks: RankPool, finished: Path, tmp_path: Path
) -> None:
    """A row was mended: what the message says to type makes a run from the checkpoint's weights on the data of now."""
    mended = tmp_path / "agent.jsonl"
    mended.write_text("".join((DEMO / "agent.jsonl").read_text().splitlines(keepends=True)[1:]))
    settings = [*layout(2), "train.steps=3", f"data.sources.0.path={mended}"]
    with pytest.raises(RankError, match="changed since the checkpoint was made") as caught:
        ranks.run("train_run", 2, config=str(finished), overrides=settings)
    said = str(caught.value)
    typed = (
        said[said.index("model.path=") :]
        .partition(" (")[0]
        .replace("NEW_FOLDER", str(tmp_path / "new"))
        .split()
    )
    assert len(typed) == 3
    assert set(ranks.run("train_run", 2, config=str(finished), overrides=[*settings, *typed])) == {0}
    assert [line["step"] for line in measured(tmp_path / "new")] == [1, 2, 3]
    first = tmp_path / "first"
    base = [f"run.output_dir={first}", "checkpoint.resume=never", "train.steps=1"]
    ranks.run("train_run", 2, config=str(finished), overrides=[*settings, *base])
    # The same rows as a run from the model gives, but other weights.
    (trained, *_), (untrained,) = measured(tmp_path / "new"), measured(first)
    assert trained["data_hash"] == untrained["data_hash"]
    assert trained["loss"] < untrained["loss"]


def test_a_run_that_begins_with_anothers_checkpoint_leaves_what_was_there(
    ranks: RankPool, finished: Path, tmp_path: Path
) -> None:
    """The log of the run before knows nothing of that checkpoint, nor is its wandb run gone on with."""
    log, wandb_id = tmp_path / "metrics.jsonl", tmp_path / "wandb/current-id.txt"
    log.write_text('{"step": 1, "data_hash": "another"}\n')
    wandb_id.parent.mkdir()
    wandb_id.write_text("before")
    named = f"checkpoint.resume={finished.parent}/run/checkpoints/step-00000001"
    settings = [*layout(2), named, f"run.output_dir={tmp_path}"]
    assert set(ranks.run("train_run", 2, config=str(finished), overrides=settings)) == {0}
    assert [line["step"] for line in measured(tmp_path)] == [2]
    assert "another" in (tmp_path / "metrics-left.jsonl").read_text()
    assert not wandb_id.exists()
    # The same command goes on from its own, also where the other is gone; another folder is not taken for it.
    longer = [*settings, "train.steps=3"]
    with moved_away(finished.parent / "run/checkpoints/step-00000001"):
        assert set(ranks.run("train_run", 2, config=str(finished), overrides=longer)) == {0}
    assert [line["step"] for line in measured(tmp_path)] == [2, 3]
    elsewhere = named.replace("00001", "00002")
    with pytest.raises(RankError, match="did not begin there; go on from its newest, step-00000003"):
        ranks.run("train_run", 2, config=str(finished), overrides=[*settings, elsewhere])


def test_a_model_folder_that_was_changed_while_the_run_began(
    ranks: RankPool, finished: Path, tmp_path: Path
) -> None:
    """Its files were others when they were read: no checkpoint is made of those of now, and none gone on from."""
    began, fresh = "0" * 32, ["checkpoint.resume=never", f"run.output_dir={tmp_path}"]
    for settings, said in ((fresh, "was changed since this run began"), ([], "is not the one that")):
        with pytest.raises(RankError, match=said):
            ranks.run(
                "train_run", 1, config=str(finished), overrides=[*layout(), *settings], began_with=began
            )
    assert not list((tmp_path / "checkpoints").glob("step-*"))


def test_a_run_that_would_begin_and_take_no_step(ranks: RankPool, finished: Path, tmp_path: Path) -> None:
    settings = [
        f"checkpoint.resume={finished.parent}/run/checkpoints/step-00000002",
        f"run.output_dir={tmp_path}",
    ]
    with pytest.raises(
        RankError, match=r"has 2 steps behind it, .* of 2 none is left; raise train\.steps"
    ) as caught:
        ranks.run("train_run", 1, config=str(finished), overrides=[*layout(), *settings])
    assert caught.value.kind == "ConfigError"


def test_a_named_folder_that_is_missing(ranks: RankPool, finished: Path) -> None:
    settings = [*layout(), "checkpoint.resume=nowhere/step-00000009"]
    with pytest.raises(RankError, match=r"nowhere/step-00000009: no such folder") as caught:
        ranks.run("train_run", 1, config=str(finished), overrides=settings)
    assert caught.value.kind == "ConfigError"


def test_never_starts_over(ranks: RankPool, finished: Path, tmp_path: Path) -> None:
    settings = [*layout(2), "checkpoint.resume=never", "train.steps=1", f"run.output_dir={tmp_path / 'over'}"]
    ranks.run("train_run", 2, config=str(finished), overrides=settings)
    ranks.run("train_run", 2, config=str(finished), overrides=settings)
    over = tmp_path / "over"
    assert [line["step"] for line in measured(over)] == [1]
    assert len((over / "metrics-left.jsonl").read_text().splitlines()) == 1
    checkpoints = sorted(folder.name for folder in (over / "checkpoints").glob("step-*"))
    assert checkpoints == ["step-00000001", "step-00000001-left"]
