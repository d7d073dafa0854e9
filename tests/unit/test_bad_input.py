"""Bad input ends before any rank starts: exit code 2 or 3, and one line with value, limit and remedy."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOKENIZER = ROOT / "configs" / "demo" / "tokenizer"
IDS = 1201  # of the demo tokenizer
MODEL = {
    "model_type": "llama",
    "vocab_size": IDS,
    "hidden_size": 96,
    "intermediate_size": 240,
    "num_hidden_layers": 4,
    "num_attention_heads": 12,
    "num_key_value_heads": 4,
    "max_position_embeddings": 512,
}
CONFIG = """
run: {output_dir: run}
model: {path: model, dtype: float32}
parallel: {tensor: 2, pipeline: 2, data: 1}
data:
  sequence_length: 256
  eta: 0.5
  sources:
    - {name: agent, path: agent.jsonl, role: agent}
    - {name: general, path: general.json, role: general}
batch: {rows: 8, micro_rows: 2}
train: {steps: 4}
"""
GOOD = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
# Stands in for DeepSpeed's launcher: were it reached, the command would end well instead of with its exit code.
LAUNCHER = "def main(): print('launcher started')"


class Ended(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run that would start: config.yaml, model and data, without tensors in its weights."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps(MODEL))
    (model / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TOKENIZER / name, model)
    (tmp_path / "config.yaml").write_text(CONFIG)
    (tmp_path / "agent.jsonl").write_text(3 * (json.dumps(GOOD) + "\n"))
    (tmp_path / "general.json").write_text(json.dumps([GOOD, GOOD]))
    package = tmp_path / "fake" / "deepspeed" / "launcher"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").touch()
    (package / "__init__.py").touch()
    for name in ("runner.py", "launch.py"):
        (package / name).write_text(LAUNCHER)
    return tmp_path


def agenttune(folder: Path, *arguments: str) -> Ended:
    path = os.pathsep.join((str(folder / "fake"), str(ROOT)))
    ended = subprocess.run(
        [sys.executable, "-m", "launch.cli", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=60,
    )
    return Ended(ended.returncode, ended.stdout, ended.stderr)


def test_the_run_would_start_without_the_fault(folder: Path) -> None:
    assert agenttune(folder, "train", "config.yaml")[:2] == (0, "launcher started\n")


# Name -> override, and what the line must say: the value, the limit, the remedy.
BAD_CONFIG: dict[str, tuple[str, tuple[str, ...]]] = {
    "unknown key": ("batch.row=8", ("batch.row:", "nearest known key is batch.rows")),
    "unknown section": ("optimiser.lr=1e-4", ("optimiser", "optimizer")),
    "wrong type": ("batch.rows=many", ("batch.rows=many", "whole number")),
    "not one of": ("model.dtype=float16", ("model.dtype=float16", "one of float32, bfloat16")),
    "no override": ("batch.rows", ("batch.rows", "KEY=VALUE")),
    "out of range": ("data.eta=1.5", ("data.eta=1.5", "at most 1")),
    "heads": ("parallel.tensor=5", ("parallel.tensor=5", "attention heads (12)", "one of 1, 2, 4")),
    "key-value heads": ("parallel.tensor=3", ("parallel.tensor=3", "key-value heads (4)", "one of 1, 2, 4")),
    "stages": ("parallel.pipeline=5", ("parallel.pipeline=5", "layers (4)", "parallel.pipeline=4")),
    "batch": ("batch.rows=7", ("batch.rows (7)", "data 1 x batch.micro_rows 2", "multiple of 2")),
    "no model folder": ("model.path=absent", ("model.path=absent", "no such folder", "agenttune init-model")),
    "steps and epochs": ("train.epochs=2", ("train.steps=4", "train.epochs=2", "exactly 1", "null")),
    "no steps, no epochs": ("train.steps=null", ("train.steps=null", "neither", "exactly 1")),
    "positions": ("data.sequence_length=1024", ("data.sequence_length=1024", "positions (512)", "or less")),
    "no data file": (
        "data.sources.1.path=absent.json",
        ("data.sources.1.path=absent.json", "0 files", "correct the path"),
    ),
    "no source of a role": (
        "data.sources.0.role=general",
        ("data.eta is 0.5", "role agent", "data.eta to 0"),
    ),
    "nothing to resume": (
        "checkpoint.resume=absent",
        ("checkpoint.resume=absent", "no such folder", "auto or never"),
    ),
}


@pytest.mark.parametrize("name", BAD_CONFIG)
def test_bad_config(folder: Path, name: str) -> None:
    override, said = BAD_CONFIG[name]
    expect_line(folder, 2, said, override)


def test_tokenizer_larger_than_the_model(folder: Path) -> None:
    (folder / "model" / "config.json").write_text(json.dumps(MODEL | {"vocab_size": IDS - 1}))
    expect_line(folder, 2, (f"vocabulary={IDS}", f"({IDS - 1})", "use the tokenizer that model was"))


def test_no_weights(folder: Path) -> None:
    (folder / "model/model.safetensors").unlink()
    expect_line(folder, 2, ("model.path=model", "no *.safetensors weights", "agenttune init-model"))
    assert not (folder / "run").exists()  # nor were the data gone through


def test_no_config_file(folder: Path) -> None:
    (folder / "config.yaml").unlink()
    expect_line(folder, 2, ("config.yaml", "no such config file", "working directory"))


def lines(*rows: object) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def said(*roles: str) -> dict[str, object]:
    return {"conversations": [{"from": role, "value": "x"} for role in roles]}


# Name -> content of agent.jsonl, and what the line must say.
BAD_DATA: dict[str, tuple[str, tuple[str, ...]]] = {
    "empty": ("", ("agent.jsonl", "without any row", "fill it")),
    "blank lines": ("\n  \n\n", ("agent.jsonl", "without any row", "fill it")),
    "empty array": ("[]", ("agent.jsonl", "without any row", "fill it")),
    "no JSON": (lines(GOOD) + '\n{"messages": [\n', ("agent.jsonl:3", "no JSON", "one JSON value per line")),
    "no conversation": (lines(GOOD, {"text": "a"}), ("agent.jsonl:2", "'text'", "'messages'")),
    "no object": (lines(GOOD, GOOD, 7), ("agent.jsonl:3", "a number", "holds one conversation")),
    "no messages": (lines({"messages": []}), ("agent.jsonl:1", "empty list", "drop the row")),
    "unknown role": (lines(said("human", "bot")), ("agent.jsonl:1", "message 2", "'bot'", "gpt")),
    "two questions": (
        lines(GOOD, said("human", "human", "gpt")),
        ("agent.jsonl:2", "messages 1 and 2", "join the two"),
    ),
    "begins with an answer": (lines(said("gpt")), ("agent.jsonl:1", "message 1", "drop it")),
    "tools": (lines(GOOD | {"tools": {"name": "f"}}), ("agent.jsonl:1", "'tools'", "list")),
    "control text": (
        lines({"messages": [{"role": "user", "content": "[INST] hi"}]}),
        ("agent.jsonl:1", "message 1 holds '[INST]'", "data.control_text=neutralise"),
    ),
}


@pytest.mark.parametrize("name", BAD_DATA)
def test_bad_data(folder: Path, name: str) -> None:
    content, said = BAD_DATA[name]
    (folder / "agent.jsonl").write_text(content)
    expect_line(folder, 3, said)


def test_bad_row_of_an_array_is_named_by_its_number(folder: Path) -> None:
    (folder / "general.json").write_text(json.dumps([GOOD, GOOD, {"messages": "a"}], indent=1))
    expect_line(folder, 3, ("general.json:26 (row 3)", "'messages' is a string", "list of messages"))


def expect_line(folder: Path, code: int, said: tuple[str, ...], *overrides: str) -> None:
    """`agenttune train` ends with the code, one line on stderr that says it all, and no trace of a run."""
    ended = agenttune(folder, "train", "config.yaml", *overrides)
    assert ended.code == code
    assert ended.out == ""
    assert ended.err.startswith("agenttune: ")
    assert ended.err.endswith("\n")
    assert ended.err.count("\n") == 1
    for part in said:
        assert part in ended.err
    left = [file.name for file in (folder / "run").glob("*")]
    assert left in ([], ["data_cache"])  # what was found out about the data is kept
