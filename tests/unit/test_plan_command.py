"""`agenttune plan` as users call it: nothing has been fetched yet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from configs.load import load_config
from configs.shapes import SHAPES
from launch import plan_question
from launch.cli import main

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder without models and data, on a machine without GPUs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plan_question, "accelerators", lambda: 0)
    monkeypatch.setattr(plan_question, "_gpu_here", lambda: None)


def shipped(name: str, *arguments: str) -> list[str]:
    return ["plan", str(CONFIGS / f"llama2_{name}.yaml"), "--shape", f"llama2-{name}", *arguments]


def as_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any], str]:
    code = main([*arguments, "--format", "json"])
    captured = capsys.readouterr()
    return code, json.loads(captured.out), captured.err


@pytest.mark.parametrize(("name", "gpus"), [("7b", 8), ("13b", 8), ("70b", 32)])
def test_shipped_configs_work_on_the_gpus_they_name(
    name: str, gpus: int, capsys: pytest.CaptureFixture[str]
) -> None:
    code, plan, errors = as_json(capsys, *shipped(name, "--gpus", str(gpus)))
    assert (code, errors) == (0, "")
    config = load_config(CONFIGS / f"llama2_{name}.yaml")
    own = plan["own"]
    assert own["feasible"]
    assert own["layout"] == {
        "tensor": config.parallel.tensor,
        "pipeline": config.parallel.pipeline,
        "data": gpus // (config.parallel.tensor * config.parallel.pipeline),
    }
    assert len(own["stages"]) == config.parallel.pipeline
    assert own["peak_bytes"] == max(stage["memory"]["total"] for stage in own["stages"]) < 80e9
    assert sum(own["parts_seconds"].values()) == pytest.approx(own["step_seconds"])
    assert plan["model"]["parameters"] == SHAPES[f"llama2-{name}"].parameters()
    (marked,) = [choice for choice in plan["layouts"] if choice["own"]]
    assert marked["settings"] == own["settings"]
    # What is printed to be run is what was planned.
    for choice in plan["layouts"]:
        command, config_file, *overrides = choice["train"].split()[1:]
        assert command == "train"
        planned = load_config(config_file, overrides)
        assert planned.parallel.tensor == choice["layout"]["tensor"]
        assert planned.parallel.recompute == choice["recompute"]
        assert planned.batch.micro_rows == choice["micro_rows"]
    first = plan["layouts"][0]
    assert first["submit"].startswith(first["train"].replace("agenttune train", "agenttune submit"))
    assert first["submit"].endswith(f"--nodes {gpus // 8} --gpus-per-node 8")


def test_what_the_readme_shows_is_what_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    readme = (CONFIGS.parent / "README.md").read_text(encoding="utf-8")
    shown = readme.partition("$ agenttune plan configs/llama2_70b.yaml")[2].partition("```")[0]
    assert main(shipped("70b", "--gpus", "32")) == 0
    said = capsys.readouterr().out.splitlines()
    lines = [line for line in shown.splitlines()[1:] if line != "…"]
    assert len(lines) > 6
    assert set(lines) <= set(said)


def test_text_has_the_table_and_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(shipped("70b", "--gpus", "32", "batch.rows=32", "optimizer.lr=2e-5")) == 0
    said = capsys.readouterr().out
    assert "32 rows of 4,096 tokens a step" in said
    assert "assumed: --network 400" in said
    assert "The config's own layout: tensor 8 x pipeline 4 x data 1, recompute selective, sequence" in said
    marked = [line for line in said.splitlines() if " * " in line]
    assert len(marked) == 1
    assert marked[0].split()[2:5] == ["8", "4", "1"]
    (train,) = [line for line in said.splitlines() if line.startswith("  agenttune train")]
    assert "batch.rows=32 optimizer.lr=2e-5 parallel.tensor=" in train


def test_what_does_not_work_is_refused_and_what_does_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(
        shipped("70b", "--gpus", "32", "parallel.recompute=none", "--gpu", "a100-80", "batch.micro_rows=4")
    )
    captured = capsys.readouterr()
    assert code == 2
    (error,) = captured.err.splitlines()
    assert error.startswith("agenttune: tensor 8 x pipeline 4 x data 1: ")
    assert "at most the 80 GB of a100-80; the largest part is activations" in error
    assert error.endswith("; set batch.micro_rows=1")
    assert "does not work" in captured.out
    assert "Layouts that work on 32 GPUs" in captured.out


def test_refused_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    code, plan, errors = as_json(capsys, *shipped("7b", "--gpus", "8", "parallel.tensor=3"))
    assert code == 2
    assert "must be a multiple of tensor 3 x pipeline 1 = 3" in errors
    assert not plan["own"]["feasible"]
    assert plan["own"]["reason"] in errors
    assert plan["layouts"]


def test_nothing_said_of_gpus(capsys: pytest.CaptureFixture[str]) -> None:
    _, plan, _ = as_json(capsys, *shipped("70b"))
    assert plan["cluster"]["gpus"] == 32
    assert plan["assumed"][0].startswith("--gpus 32: the ranks of the config's layout")
    assert "--gpu h100" in plan["assumed"][1]


def test_gpus_of_this_machine(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_question, "accelerators", lambda: 4)
    monkeypatch.setattr(plan_question, "_gpu_here", lambda: plan_question.GPUS["h200"])
    code, plan, _ = as_json(capsys, *shipped("7b"))
    assert code == 0
    assert (plan["cluster"]["gpus"], plan["cluster"]["gpu"]["name"]) == (4, "h200")
    assert plan["own"]["layout"] == {"tensor": 2, "pipeline": 1, "data": 2}


def test_more_ranks_than_the_machine_has_gpus(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A login node with two of them plans for what the config asks."""
    monkeypatch.setattr(plan_question, "accelerators", lambda: 2)
    code, plan, _ = as_json(capsys, *shipped("70b"))
    assert code == 0
    assert (plan["cluster"]["gpus"], plan["cluster"]["per_node"]) == (32, 8)
    assert "more than the 2 of this machine" in plan["assumed"][0]


def test_each_node_takes_as_many_ranks(capsys: pytest.CaptureFixture[str]) -> None:
    """As the launcher starts them."""
    _, plan, _ = as_json(capsys, *shipped("7b", "--gpus", "12", "batch.rows=48"))
    assert plan["cluster"]["per_node"] == 6
    assert all(one["submit"].endswith("--nodes 2 --gpus-per-node 6") for one in plan["layouts"])
    assert all(6 % one["layout"]["tensor"] == 0 for one in plan["layouts"])
    assert main(shipped("7b", "--gpus", "13")) == 2
    assert "take 12 or 14" in capsys.readouterr().err


def test_activations_by_mode_of_recompute(capsys: pytest.CaptureFixture[str]) -> None:
    _, plan, _ = as_json(capsys, *shipped("70b", "--gpus", "32"))
    modes = plan["own"]["by_recompute"]
    kept = [modes[mode]["activations_bytes"] for mode in ("none", "selective", "full")]
    assert kept[0] > kept[1] > kept[2] > 0
    assert modes[plan["own"]["recompute"]]["peak_bytes"] == plan["own"]["peak_bytes"]


def test_float32_is_told_to_be_less_sure(capsys: pytest.CaptureFixture[str]) -> None:
    fast, slow = (
        as_json(capsys, *shipped("7b", "--gpus", "32", f"model.dtype={dtype}"))[1]
        for dtype in ("bfloat16", "float32")
    )
    assert any("flash attention" in said for said in slow["assumed"])
    assert not any("flash attention" in said for said in fast["assumed"])
    assert slow["layouts"][0]["tokens_per_second"] < fast["layouts"][0]["tokens_per_second"] / 5


def test_config_json_alone_is_enough(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "model"
    config = str(CONFIGS / "llama2_7b.yaml")
    assert main(["plan", config, f"model.path={folder}", "--gpus", "8"]) == 2
    assert "no config.json there to plan by" in capsys.readouterr().err
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(SHAPES["llama2-7b"].hf_config()))
    assert main(["plan", config, f"model.path={folder}", "--gpus", "8"]) == 0


def test_main_memory_for_checkpoints(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(shipped("70b", "--gpus", "32", "--host-memory", "256")) == 0
    capsys.readouterr()
    assert main(shipped("70b", "--gpus", "32", "--host-memory", "128")) == 2
    assert "set checkpoint.background=false" in capsys.readouterr().err
    assert main(shipped("70b", "--gpus", "32", "--host-memory", "128", "checkpoint.background=false")) == 0
    capsys.readouterr()
    assert main(shipped("70b", "--gpus", "32", "--host-memory", "128", "checkpoint.every=null")) == 0
    capsys.readouterr()
    code, plan, said = as_json(capsys, *shipped("70b", "--gpus", "32", "--host-memory", "64"))
    assert code == 2
    assert "spread the ranks over more nodes" in said
    assert plan["layouts"] == []  # nor is any other told to work
    at_once = "checkpoint.background=false"
    _, plan, _ = as_json(capsys, *shipped("70b", "--gpus", "32", "--host-memory", "86", at_once))
    assert plan["layouts"]
    assert all(one["saving"]["at_once"] <= 86e9 for one in plan["layouts"])
    assert any("GB of main memory on a node" in one["reason"] for one in plan["refused"])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--gpus", "0"), "0 is no whole number from 1 on"),
        (("--network", "fast"), "fast is no number above 0"),
        (("--gpu", "v100"), "invalid choice: 'v100'"),
        (("batch.micro_rows=0",), "batch.micro_rows=0: must be at least 1"),
    ],
)
def test_mistakes(arguments: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(shipped("7b", *arguments)) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert says in error
