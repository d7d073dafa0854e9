"""`agenttune verify` by its passes: all holds on sound code, and each planted fault fails the lines that it should."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from rank_pool import RankPool
from tiny import layout, write_config, write_model
from verify_faults import FAULTS

from configs.load import load_config
from launch.verify import prepare
from trainer.verify.answers import Answers
from trainer.verify.checks import Finding, checks, not_made, ready
from trainer.verify.job import Answer, Who
from trainer.verify.rank import run_peer
from trainer.verify.small_model import write_weights

Told = list[tuple[str, Answer]]
ALL = {"rows", "loss", "gradients", "steps", "isolation", "micro-batches", "recompute"}


@dataclass
class Bench:
    """A config prepared for one layout, with what transformers and the one process tell of it."""

    ranks: RankPool
    answers: Answers
    """Of none yet."""
    peer: Told
    serial: Told

    def findings(self, fault: str | None, *, everywhere: bool) -> dict[str, Finding]:
        """What is found where the layout has a fault; `everywhere`: so has the one process."""
        kept = self.answers.job.gradients("serial", "step 1", 0).read_bytes()
        serial = ask(self.ranks, self.answers, "serial", fault)[0] if everywhere else self.serial
        told: list[tuple[Who, list[Told]]] = [
            ("peer", [self.peer]),
            ("serial", [serial]),
            ("layout", ask(self.ranks, self.answers, "layout", fault)),
        ]
        answers = replace(self.answers, given={})
        for who, ranks in told:
            for rank, passes in enumerate(ranks):
                for what, answer in passes:
                    answers.add(who, what, rank, json.loads(json.dumps(answer)))
        left = checks(answers.job)
        found = [*ready(left, answers), *not_made(left)]
        self.answers.job.gradients("serial", "step 1", 0).write_bytes(kept)
        return {finding.name: finding for finding in found}


def ask(ranks: RankPool, answers: Answers, who: Who, fault: str | None) -> list[Told]:
    job = answers.job
    return ranks.run("verify_passes", job.processes(who), job=job.to_json(), who=who, fault=fault)


def bench(ranks: RankPool, model: Path, folder: Path, overrides: list[str]) -> Bench:
    config = write_config(folder / "run.yaml", model, data={"sequence_length": 256})
    _, answers, _ = prepare(load_config(config, overrides), 8, folder, "run.yaml")
    write_weights(answers.job.model, 1)
    peer: Told = []
    run_peer(answers.job, lambda what, answer: peer.append((what, answer)))
    return Bench(ranks, answers, peer, ask(ranks, answers, "serial", None)[0])


@pytest.fixture(scope="module")
def tensor(ranks: RankPool, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Two tensor ranks, sequence parallel; 2 query heads for each of 4 key-value heads."""
    overrides = layout(2, 1, 1, sequence=True, recompute="selective")
    return bench(ranks, model, tmp_path_factory.mktemp("tensor"), overrides)


@pytest.fixture(scope="module")
def stages(ranks: RankPool, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Three stages and a tied head, as many query heads as key-value heads, and llama3's rotary embedding."""
    rope = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0}
    rope |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 256}
    folder = tmp_path_factory.mktemp("stages")
    changes = {"tie_word_embeddings": True, "num_key_value_heads": 8, "rope_parameters": rope}
    return bench(ranks, write_model(folder / "tied", **changes), folder, layout(1, 3, 1, recompute="full"))


@pytest.mark.parametrize("name", ["tensor", "stages"])
def test_sound_code(name: str, request: pytest.FixtureRequest) -> None:
    found = request.getfixturevalue(name).findings(None, everywhere=False)
    assert {name for name, finding in found.items() if finding.holds} == ALL, found


@pytest.mark.parametrize(
    ("name", "fault", "everywhere", "fails", "says"),
    [
        # Who fails beside the lines named is not at issue: a wrong loss has wrong gradients.
        ("tensor", "mean of each micro-batch", True, "gradients micro-batches", "mean of each micro-batch"),
        ("tensor", "norms not reduced", False, "gradients", "not summed over the tensor ranks"),
        ("tensor", "interleaved pairs", True, "loss", "which pairs the rotary embedding turns"),
        ("tensor", "labels not shifted", False, "loss", "source"),
        ("tensor", "across samples", False, "loss isolation micro-batches", "from one sample into another"),
        ("tensor", "slice from elsewhere", False, "loss", "a slice of a weight from the wrong place"),
        ("tensor", "rows of its own", False, "rows loss", "rank 1 made others"),
        ("tensor", "recomputed otherwise", False, "recompute", "computed again"),
        ("tensor", "weight decay everywhere", True, "steps", "weight decay"),
        ("tensor", "norm of more", False, "gradients", "norm is not taken over every slice once"),
        ("stages", "positions lost", False, "loss isolation", "stage 1"),
    ],
)
def test_planted_faults(
    name: str, fault: str, everywhere: bool, fails: str, says: str, request: pytest.FixtureRequest
) -> None:
    found = request.getfixturevalue(name).findings(fault, everywhere=everywhere)
    failed = {name for name, finding in found.items() if not finding.holds}
    assert set(fails.split()) <= failed, found
    assert any(says in found[name].told for name in fails.split()), found
    # What the fault has no part in goes on to hold.
    assert ("loss" in failed) == ("loss" in fails), found
    assert ("isolation" in failed) == ("isolation" in fails or "rows" in fails), found


def test_every_fault_is_tried() -> None:
    """Here, or by the whole command."""
    here = {mark.args[1][i][1] for mark in test_planted_faults.pytestmark for i in range(len(mark.args[1]))}  # pyright: ignore
    assert here | {"copies not averaged", "rank killed", "parent killed"} == FAULTS.keys()
