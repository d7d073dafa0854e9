"""Evaluations against transformers, sample by sample; and that training does not notice them."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from rank_pool import RankPool
from tiny import layout, read_weights, write_config

from tokenization.sample import SpanKind
from trainer.verify.peer import load

LAYOUTS = {
    "TP1 PP1": (layout(), 1),
    "TP2 PP2 sequence": (layout(2, 2, sequence=True), 4),
    "PP3": (layout(1, 3), 3),
    "DP2": (layout(1, 1, 2), 2),
    "PP2 dualpipev": (layout(1, 2, schedule="dualpipev"), 2),
    "PP2 dualpipev, more in a step": ([*layout(1, 2, schedule="dualpipev"), "batch.rows=8"], 2),
}
NAMES = ("agent", "general")
SAMPLES = 9
SEED = 4
PER_ROW = 2


@dataclass
class Expected:
    """What transformers finds, and how the calls were made."""

    losses: dict[tuple[int, int], list[float]] = field(default_factory=dict)
    """By source and kind."""
    right: list[bool] = field(default_factory=list)
    calls: list[tuple[bool, bool]] = field(default_factory=list)
    """Name and arguments are right."""
    nearest: float = 1.0
    """The smallest lead of a largest logit."""


@dataclass(frozen=True)
class Case:
    rows: list[list[dict[str, Any]]]
    expected: Expected


@pytest.fixture(scope="module")
def case(model: Path) -> Case:
    """Samples whose targets are what the model says, but for some that are drawn: it would get almost none right."""
    peer, expected, dice = load(model), Expected(), random.Random(SEED)
    samples = [_sample(peer, i % 2, expected, dice) for i in range(SAMPLES)]
    return Case([samples[i : i + PER_ROW] for i in range(0, SAMPLES, PER_ROW)], expected)


@torch.no_grad()
def _sample(peer: torch.nn.Module, source: int, expected: Expected, dice: random.Random) -> dict[str, Any]:
    tokens: list[int] = []
    trained: list[bool] = []
    kinds: list[SpanKind] = []

    def span(kind: SpanKind, size: int, is_target: bool, faults: float = 0.3) -> bool:
        """Whether all of it is right."""
        whole = True
        for _ in range(size):
            token = dice.randrange(1201)
            if is_target:
                logits = peer(input_ids=torch.tensor([tokens])).logits[0, -1].float()  # [vocabulary]
                best = int(logits.argmax())
                token = token if dice.random() < faults else best
                first, second = logits.topk(2).values.tolist()
                expected.nearest = min(expected.nearest, first - second)
                loss = F.cross_entropy(logits[None], torch.tensor([token])).item()
                expected.losses.setdefault((source, kind), []).append(loss)
                expected.right.append(token == best)
                whole = whole and token == best
            tokens.append(token)
            trained.append(is_target)
            kinds.append(kind)
        return whole

    span(SpanKind.CONTROL, 2, False)
    span(SpanKind.USER, dice.randint(2, 6), False)
    nothing = SpanKind.CONTROL
    for values in dice.choice(
        [[], [SpanKind.ARGUMENTS], [nothing], [SpanKind.CODE, SpanKind.ARGUMENTS, nothing]]
    ):
        span(SpanKind.CONTROL, 2, True)
        faults = dice.choice([0.0, 0.3])
        name = [span(SpanKind.CALL_NAME, 3, True, faults), span(SpanKind.CONTROL, 1, True, faults)]
        if values is not nothing:
            span(SpanKind.CONTROL, 1, True)
        faults = dice.choice([0.0, 0.3])
        value = [span(values, dice.randint(1, 6), True, faults), span(SpanKind.CONTROL, 1, True, faults)]
        expected.calls.append((all(name), all(value)))
    span(SpanKind.OBSERVATION, 1, False)
    span(SpanKind.CALL_NAME, 2, False)  # of a message that is not learned
    span(SpanKind.ARGUMENTS, 2, False)
    span(SpanKind.OBSERVATION, 4, False)
    span(SpanKind.TEXT, dice.randint(1, 5), True)
    span(SpanKind.STOP, 1, True)
    return {"tokens": tokens, "trained": trained, "kinds": kinds, "source": source}


def test_the_case_has_some_of_everything(case: Case) -> None:
    """Or agreement would say little."""
    expected = case.expected
    assert {*expected.calls} == {(True, True), (True, False), (False, True), (False, False)}
    assert 0.3 < sum(expected.right) / len(expected.right) < 0.9
    assert expected.nearest > 1e-4, "layouts may differ on a tie"
    assert len(case.rows) == 5, (
        "one more, an empty one, goes to the second of two data ranks; and a step has 4"
    )


@pytest.mark.parametrize("name", LAYOUTS)
def test_as_transformers_finds_it(
    name: str, case: Case, model: Path, ranks: RankPool, tmp_path: Path
) -> None:
    overrides, processes = LAYOUTS[name]
    config = str(write_config(tmp_path / "run.yaml", model))
    told = ranks.run(
        "evaluation_tasks.evaluate_rows", processes, config=config, overrides=overrides, rows=case.rows
    )
    found = told[0]
    for other in told:
        assert other["beats"] >= len(case.rows) // 2, "an evaluation may take longer than run.hang_seconds"
        assert other | {"seconds": 0, "beats": 0} == found | {"seconds": 0, "beats": 0}
    losses = case.expected.losses
    assert found["loss"] == pytest.approx(_mean(losses, lambda key: True), rel=1e-6)
    for i, source in enumerate(NAMES):
        mean = _mean(losses, lambda key, i=i: key[0] == i)
        assert found["loss_by_source"][source] == pytest.approx(mean, rel=1e-6)
    kinds = {kind for _, kind in losses}
    assert found["loss_by_kind"].keys() == {SpanKind(kind).name.lower() for kind in kinds}
    for kind in kinds:
        mean = _mean(losses, lambda key, kind=kind: key[1] == kind)
        assert found["loss_by_kind"][SpanKind(kind).name.lower()] == pytest.approx(mean, rel=1e-6)
    right, calls = case.expected.right, case.expected.calls
    assert (found["targets"], found["calls"]) == (len(right), len(calls))
    assert found["token_accuracy"] == sum(right) / len(right)
    assert found["name_exact"] == sum(name for name, _ in calls) / len(calls)
    assert found["arguments_exact"] == sum(values for _, values in calls) / len(calls)
    assert found["call_exact"] == sum(name and values for name, values in calls) / len(calls)


def _mean(losses: dict[tuple[int, int], list[float]], of: Any) -> float:
    chosen = [loss for key, each in losses.items() if of(key) for loss in each]
    return sum(chosen) / len(chosen)


def test_equal_logits_and_rows_that_only_pad(ranks: RankPool) -> None:
    """Seven ids on two tensor ranks, four rows each: ids 4 to 6 and one that is none on the second."""
    head = [[1.0, 0.0], [2.0, 0.0], [2.0, 0.0], [0.0, 1.0], [2.0, 0.0], [0.0, 1.0], [0.5, 3.0]]
    hidden = [[1.0, 0.0], [-1.0, -9.0], [0.0, 1.0], [0.0, -1.0], [0.0, 0.0], [-1.0, 0.0]]
    expected = [1, 0, 6, 0, 0, 3]
    for processes in (1, 2):
        assert (
            ranks.run("evaluation_tasks.predicted", processes, head=head, hidden=hidden)
            == [expected] * processes
        )


@pytest.mark.parametrize("name", list(LAYOUTS)[1:])
def test_training_does_not_notice(
    name: str, case: Case, model: Path, ranks: RankPool, tmp_path: Path
) -> None:
    """Losses, norms, weights, moments, random numbers and DeepSpeed's counters, bit by bit, on each rank."""
    overrides, processes = LAYOUTS[name]
    settings = {"config": str(write_config(tmp_path / "run.yaml", model)), "overrides": overrides, "steps": 2}
    without = ranks.run("evaluation_tasks.steps_between", processes, **settings, rows=None)
    beside = ranks.run("evaluation_tasks.steps_between", processes, **settings, rows=case.rows)
    assert beside == without
    steps = {
        name: value for name, value in without[0]["counters"].items() if name.endswith("Engine.global_steps")
    }
    assert set(steps.values()) == {2}


EVALUATED = {"data": {"sequence_length": 512}, "evaluation": {"held_out": 0.02, "rows": 3}}


def _lines(file: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    return [{key: value for key, value in line.items() if "second" not in key} for line in lines]


def test_a_run_that_evaluates_trains_as_one_that_does_not(
    model: Path, ranks: RankPool, tmp_path: Path
) -> None:
    """And one that is stopped while it evaluates goes on as if it had not been."""
    files = {
        name: write_config(tmp_path / f"{name}.yaml", model, **EVALUATED)
        for name in ("not", "yes", "stopped")
    }
    runs = {name: tmp_path / name for name in files}
    train: dict[str, Any] = {"overrides": [*layout(1, 2), "evaluation.every=2"]}
    ranks.run("train_run", 2, config=str(files["not"]), overrides=layout(1, 2))
    ranks.run("train_run", 2, config=str(files["yes"]), **train)
    told = ranks.run(
        "evaluation_tasks.stopped_while_evaluating", 2, config=str(files["stopped"]), **train, step=2, rank=1
    )
    assert told == [75, 75]
    assert [path.name for path in sorted((runs["stopped"] / "checkpoints").glob("step-*"))] == [
        "step-00000002"
    ]
    assert ranks.run("train_run", 2, config=str(files["stopped"]), **train) == [0, 0]
    weights = {name: read_weights(runs[name] / "checkpoints/step-00000005") for name in runs}
    for name in ("yes", "stopped"):
        steps = _lines(runs["not"] / "metrics.jsonl")
        for one, other in zip(_lines(runs[name] / "metrics.jsonl"), steps, strict=True):
            assert one | {"memory": 0} == other | {"memory": 0}
        assert all(weights[name][key].equal(weights["not"][key]) for key in weights["not"])
    assert not (runs["not"] / "evaluations.jsonl").exists()
    looked = _lines(runs["yes"] / "evaluations.jsonl")
    assert [line["step"] for line in looked] == [2, 4, 5]
    assert len({line["loss"] for line in looked}) == 3
    assert len({line["data_hash"] for line in looked}) == 1
    assert _lines(runs["stopped"] / "evaluations.jsonl") == looked


def test_evaluations_after_the_checkpoint_are_cut(model: Path, ranks: RankPool, tmp_path: Path) -> None:
    """And the logs of another course are put aside, those of evaluations too."""
    config, folder = str(write_config(tmp_path / "run.yaml", model, **EVALUATED)), tmp_path / "run"
    short = ["evaluation.every=1", "train.steps=2", "checkpoint.every=1"]
    ranks.run("train_run", 1, config=config, overrides=short)
    first = _lines(folder / "evaluations.jsonl")
    back = f"checkpoint.resume={folder}/checkpoints/step-00000001"
    ranks.run("train_run", 1, config=config, overrides=[*short, back])
    assert _lines(folder / "evaluations.jsonl") == first
    assert _lines(folder / "evaluations-left.jsonl") == first
    ranks.run("train_run", 1, config=config, overrides=[*short, "checkpoint.resume=never"])
    assert _lines(folder / "evaluations.jsonl") == first
