"""Ranks that were given different data end the run, at the first step in which they were, and say who has what."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rank_pool import RankPool
from tiny import layout, write_config

SAME = "5e1f" + "0" * 28


@pytest.mark.parametrize(
    ("overrides", "processes"), [(layout(1, 1, 2), 2), (layout(2, 2), 4)], ids=["DP2", "TP2 PP2"]
)
def test_a_rank_with_other_data_is_named(
    overrides: list[str], processes: int, ranks: RankPool, model: Path, tmp_path: Path
) -> None:
    config = write_config(tmp_path / "run.yaml", model)
    agreed = ranks.run("train_hashes", processes, config=str(config), overrides=overrides, hashes=[SAME] * 2)
    assert agreed == [[SAME, SAME]] * processes
    outcomes = ranks.outcomes(
        "train_hashes", processes, config=str(config), overrides=overrides, hashes=[SAME, "0*" + SAME[2:]]
    )
    for outcome in outcomes:
        assert outcome["error"] == "RuntimeError"
        for rank in range(processes):
            assert f"0{rank}1f0 on rank {rank}" in outcome["message"]


def test_a_rank_that_holds_out_other_data_is_named(ranks: RankPool, model: Path, tmp_path: Path) -> None:
    """Their losses would be one mean of different rows."""
    config = write_config(tmp_path / "run.yaml", model, evaluation={"every": 1, "held_out": 0.02})
    outcomes = ranks.outcomes(
        "evaluation_tasks.held_out_apart", 2, config=str(config), overrides=layout(1, 1, 2), rank=1
    )
    for outcome in outcomes:
        assert outcome["error"] == "RuntimeError"
        assert "ranks hold out different data" in outcome["message"]
        assert " on rank 1: " in outcome["message"]


def test_the_hash_is_logged_and_one_of_another_run_is_refused(
    ranks: RankPool, model: Path, tmp_path: Path
) -> None:
    config = write_config(tmp_path / "run.yaml", model, train={"steps": 2})
    assert ranks.run("train_run", 1, config=str(config), overrides=layout()) == [0]
    log = tmp_path / "run/metrics.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    state = json.loads((tmp_path / "run/checkpoints/step-00000002/training_state/state.json").read_text())
    assert len({line["data_hash"] for line in lines}) == 2
    assert lines[-1]["data_hash"] == state["cursor"]["hash"]
    assert all(0 <= line["data_wait_seconds"] <= line["step_seconds"] for line in lines)
    log.write_text(log.read_text().replace(lines[-1]["data_hash"], SAME))
    (outcome,) = ranks.outcomes("train_run", 1, config=str(config), overrides=[*layout(), "train.steps=3"])
    assert outcome["error"] == "ConfigError"
    assert SAME in outcome["message"]
    assert "they are of different runs" in outcome["message"]


def test_epochs_are_counted_once_and_bad_rows_left_out(ranks: RankPool, model: Path, tmp_path: Path) -> None:
    """The whole way on two ranks: a bad row in each source, counted passes, the quarantine file."""
    good = {"messages": [{"role": "user", "content": "a b c"}, {"role": "assistant", "content": "d e f"}]}
    for name in ("agent", "general"):
        rows = [json.dumps(good | {"id": f"{name}{i}"}) for i in range(60)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join([*rows, '{"messages": []}', "{"]) + "\n")
    sources = [
        {"name": name, "path": str(tmp_path / f"{name}.jsonl"), "role": name} for name in ("agent", "general")
    ]
    data = {"sources": sources, "on_error": "skip", "sequence_length": 64, "pack_window": 16}
    config = write_config(tmp_path / "run.yaml", model, data=data, train={"steps": None, "epochs": 2})
    assert ranks.run("train_run", 2, config=str(config), overrides=layout(1, 1, 2)) == [0, 0]
    run = tmp_path / "run"
    steps = len((run / "metrics.jsonl").read_text().splitlines())
    (kept,) = (run / "data_cache" / "epochs").iterdir()
    assert steps == -(-json.loads(kept.read_text())["rows"] // 4)
    quarantined = [json.loads(line) for line in (run / "quarantine.jsonl").read_text().splitlines()]
    found = sorted((Path(row["file"]).name, row["line"]) for row in quarantined)
    assert found == [("agent.jsonl", 61), ("agent.jsonl", 62), ("general.jsonl", 61), ("general.jsonl", 62)]
    kept.write_text('{"rows": 8}')
    again = [*layout(1, 1, 2), "checkpoint.resume=never"]
    assert ranks.run("train_run", 2, config=str(config), overrides=again) == [0, 0]
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 2
