"""R13: steps with a gradient or a loss that must not be taken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from lab import STEPS, Straight, visible
from rank_pool import RankError, RankPool
from trials import Trials

from configs.load import load_config
from tests.distributed.tiny import layout, write_config, write_model
from trainer.optimizer import learning_rate

KINDS = ("nan", "inf", "bit", "loss")
SETTINGS = ["guard.window=2", "checkpoint.every=3"]
NAMES = ("TP2", "PP2", "DP2", "TP2 PP2")


def spoilt_run(ranks: RankPool, run: Straight, folder: Path, **task: Any) -> list[dict[str, Any]]:
    """What each rank tells."""
    overrides = [*run.overrides, f"run.output_dir={folder}", *SETTINGS, *task.pop("settings", [])]
    return ranks.run(
        "guard_tasks.train_spoilt", run.ranks, config=str(run.config), overrides=overrides, **task
    )


def test_a_step_that_must_not_be_taken(
    trials: Trials, ranks: RankPool, straight: Callable[[str], Straight], tmp_path: Path
) -> None:
    held = "all ranks decide alike; state and schedule untouched; the same after a resume"
    for trial in trials("R13 NaN, Inf, 100x loss, a flipped gradient bit", held, few=2, of=200):
        random = trial.random
        kind, run = trial.turn(KINDS), straight(trial.turn(NAMES))
        dtype, folder = trial.turn(("float32", "bfloat16")), tmp_path / str(trial.number)
        steps = sorted(random.sample(range(2, STEPS + 1), random.choice((1, 2))))
        spoilt = [{"step": step, "rank": random.randrange(run.ranks), "kind": kind} for step in steps]
        with trial:
            settings = [f"model.dtype={dtype}"]
            whole = spoilt_run(ranks, run, folder / "whole", spoilt=spoilt, stop=0, settings=settings)
            check(whole, steps, run, settings)
            stop = random.randrange(1, STEPS)
            first = spoilt_run(ranks, run, folder / "cut", spoilt=spoilt, stop=stop, settings=settings)
            assert {told["code"] for told in first} == {75}
            rest = spoilt_run(ranks, run, folder / "cut", spoilt=spoilt, stop=0, settings=settings)
            for at_once, before, after in zip(whole, first, rest, strict=True):
                assert before["steps"] + after["steps"] == at_once["steps"]


def test_what_one_data_rank_alone_has_is_left_out_by_all(
    ranks: RankPool, straight: Callable[[str], Straight], tmp_path: Path
) -> None:
    """Under bfloat16 each data rank has a norm of its own; a fault in one sum must not keep the others waiting."""
    run, settings = straight("DP2"), ["model.dtype=bfloat16"]
    spoilt = [{"step": 3, "rank": 1, "kind": "late"}]
    check(spoilt_run(ranks, run, tmp_path, spoilt=spoilt, stop=0, settings=settings), [3], run, settings)


@pytest.mark.parametrize(
    ("dtype", "kind", "rank"),
    [pytest.param("float32", "nan", 1, marks=pytest.mark.long), ("bfloat16", "loss", 0)],
    ids=["nan", "loss"],
)
def test_ranks_with_two_parts_leave_steps_out_too(
    dtype: str, kind: str, rank: int, ranks: RankPool, tmp_path: Path
) -> None:
    """Under DualPipeV the first rank has the loss, and the fault is on one rank alone; the answer is on both."""
    heads: dict[str, Any] = {"num_attention_heads": 4, "num_key_value_heads": 2}
    sizes: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 24, **heads}
    optimizer = {"lr": 1e-3, "schedule": "cosine", "warmup_ratio": 0.3}
    model = write_model(tmp_path / "model", num_hidden_layers=4, **sizes)
    config = write_config(tmp_path / "run.yaml", model, optimizer=optimizer, train={"steps": STEPS})
    overrides = tuple(layout(1, 2, schedule="dualpipev"))
    run, settings = Straight(ranks, config, overrides, 2, tmp_path / "run", {}), [f"model.dtype={dtype}"]
    spoilt = [{"step": 3, "rank": rank, "kind": kind}]
    check(spoilt_run(ranks, run, run.folder, spoilt=spoilt, stop=0, settings=settings), [3], run, settings)


@pytest.mark.parametrize("dtype", [pytest.param("float32", marks=pytest.mark.long), "bfloat16"])
def test_a_bit_flipped_in_what_tensor_ranks_hold_alike_is_never_saved(
    dtype: str, ranks: RankPool, straight: Callable[[str], Straight], tmp_path: Path
) -> None:
    """It is in no norm, so the step is taken; the next checkpoint is given up, and the one before goes on."""
    run, settings = straight("TP2"), [f"model.dtype={dtype}"]
    spoilt = [{"step": 4, "rank": 1, "kind": "norm"}]
    with pytest.raises(
        RankError, match=r"ranks 0 to 1 have different states .* of model.layers.0.input_layer"
    ):
        spoilt_run(ranks, run, tmp_path, spoilt=spoilt, stop=0, settings=settings)
    assert (tmp_path / "checkpoints/latest").read_text() == "step-00000003\n"
    check(spoilt_run(ranks, run, tmp_path, spoilt=[], stop=0, settings=settings), [], run, settings)


def check(ranks: list[dict[str, Any]], spoilt: list[int], run: Straight, settings: list[str]) -> None:
    config = load_config(str(run.config), settings)
    for told in ranks:
        assert told["code"] == 0
        before, skipped = told["begin"], 0
        for step in told["steps"]:
            left_out = step["step"] in spoilt
            assert step["lr"] == learning_rate(step["step"] - skipped, STEPS, config.optimizer)
            skipped += left_out
            assert (bool(step["fault"]), step["skipped"]) == (left_out, skipped), step
            assert (step["digest"] == before) == left_out
            before = step["digest"]
    (alike,) = {str([(step["fault"], step["lr"]) for step in told["steps"]]) for told in ranks}
    assert alike


@pytest.mark.parametrize("name", [pytest.param("TP2", marks=pytest.mark.long), "DP2"])
def test_the_run_ends_after_so_many_in_a_row(
    name: str, ranks: RankPool, straight: Callable[[str], Straight], tmp_path: Path
) -> None:
    """All ranks with the same words; what is saved does not replace the checkpoint from before."""
    run = replace(straight(name), folder=tmp_path / "run")
    spoilt = [{"step": step, "rank": step % 2, "kind": "nan"} for step in (4, 5, 6)]
    settings = ["guard.patience=3", "train.steps=6", "checkpoint.every=1", "checkpoint.keep=1"]
    told = spoilt_run(ranks, run, run.folder, spoilt=spoilt, stop=0, settings=settings)
    assert len({rank["error"] for rank in told}) == 1
    assert told[0]["error"].startswith("step 6: ")
    assert "gradient norm inf; 3 steps in a row" in told[0]["error"]
    assert f"preview {run.folder}/config.yaml --rows 12:24" in told[0]["error"]
    assert (run.folder / "checkpoints/latest").read_text() == "step-00000006\n"
    assert visible(run.folder) == [6, 3]
