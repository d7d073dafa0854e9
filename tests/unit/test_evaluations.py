"""What is kept and told of evaluations, and of targets by source and kind."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.data.groups import KINDS, means
from trainer.evaluate import is_due
from trainer.evaluations import EvaluationLog, EvaluationReport

REPORT = EvaluationReport(
    step=3,
    loss=1.25,
    loss_by_source={"agent": 1.5},
    loss_by_kind={"text": 1.25},
    targets=1200,
    token_accuracy=0.5,
    calls=4,
    name_exact=0.75,
    arguments_exact=0.5,
    call_exact=0.25,
    seconds=2.0,
    data_hash="hash",
)


def test_the_log_is_cut_to_the_step_that_is_gone_on_from(tmp_path: Path) -> None:
    log = EvaluationLog(tmp_path, done=0)
    assert log.logged == 0
    for step in (2, 4, 6):
        log.add(replace(REPORT, step=step))
    with (tmp_path / "evaluations.jsonl").open("ab") as file:
        file.write(b'{"step": 8')  # a kill
    assert EvaluationLog(tmp_path, done=5).logged == 4
    lines = [json.loads(line) for line in (tmp_path / "evaluations.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4]
    assert lines[0] == json.loads(json.dumps(vars(replace(REPORT, step=2))))


def test_what_is_no_number_is_null(tmp_path: Path) -> None:
    EvaluationLog(tmp_path, done=0).add(replace(REPORT, loss=math.nan))
    assert json.loads((tmp_path / "evaluations.jsonl").read_text())["loss"] is None


def test_a_full_disk_is_told_with_the_file(tmp_path: Path) -> None:
    (tmp_path / "evaluations.jsonl").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"No space left on device: '.*evaluations\.jsonl'"):
        EvaluationLog(tmp_path, done=0).add(REPORT)


def test_a_line_for_people() -> None:
    assert REPORT.said() == (
        "held out, step 3: loss 1.2500, 50.0% of 1,200 targets right; of 4 calls 75.0% right in name, 50.0% in "
        "arguments, 25.0% in both (2.0 s)"
    )
    none = replace(REPORT, calls=0, name_exact=None, arguments_exact=None, call_exact=None)
    assert none.said() == "held out, step 3: loss 1.2500, 50.0% of 1,200 targets right (2.0 s)"
    assert "held_out/name_exact" not in none.values()


def test_what_wandb_is_told() -> None:
    assert REPORT.values() == {
        "held_out/loss": 1.25,
        "held_out/loss/agent": 1.5,
        "held_out/loss_by_kind/text": 1.25,
        "held_out/targets": 1200,
        "held_out/token_accuracy": 0.5,
        "held_out/calls": 4,
        "held_out/name_exact": 0.75,
        "held_out/arguments_exact": 0.5,
        "held_out/call_exact": 0.25,
        "held_out/seconds": 2.0,
    }


def test_when_it_is_due() -> None:
    assert [step for step in range(1, 11) if is_due(4, step, 10)] == [4, 8, 10]
    assert not any(is_due(None, step, 10) for step in range(1, 11))


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 8), st.floats(0, 9)), min_size=1, max_size=40),
)
def test_means_over_targets_one_by_one(targets: list[tuple[int, int, float]]) -> None:
    """targets: source, kind and loss of each"""
    names = ("a", "b", "c")
    sums = [0.0] * 27
    counts: dict[int, int] = {}
    for source, kind, loss in targets:
        group = 9 * source + kind
        sums[group] += loss
        counts[group] = counts.get(group, 0) + 1
    found = means(sums, counts, names)

    def mean(losses: list[float]) -> object:
        return pytest.approx(sum(losses) / len(losses))

    assert found.whole == mean([loss for *_, loss in targets])
    assert found.by_source.keys() == {names[source] for source, *_ in targets}
    for name, value in found.by_source.items():
        assert value == mean([loss for source, _, loss in targets if names[source] == name])
    assert found.by_kind.keys() == {KINDS[kind] for _, kind, _ in targets}
    for name, value in found.by_kind.items():
        assert value == mean([loss for _, kind, loss in targets if KINDS[kind] == name])


def test_the_names_of_kinds() -> None:
    assert KINDS[4:7] == ("call_name", "arguments", "code")
    assert means([0.0] * 9, {}, ("a",)).whole == 0.0
