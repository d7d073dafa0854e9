"""Every setting that cannot work is one line with the value, the limit and the remedy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.check import check_config
from configs.errors import ConfigError
from configs.layout import Layout, resolve_layout
from configs.schema import (
    BatchConfig,
    Config,
    DataConfig,
    HeldOutSource,
    ModelConfig,
    ParallelConfig,
    SourceConfig,
    TrainConfig,
)
from configs.shapes import ModelShape

# Heads, key-value heads and intermediate size have 1, 2 and 4 in common; nothing else is a round number.
SHAPE = ModelShape(
    vocab=1000, hidden=96, intermediate=260, layers=6, heads=12, kv_heads=4, head_dim=8, max_positions=600
)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """A config that works on four processes, its files in the working directory."""
    monkeypatch.chdir(tmp_path)
    Path("model").mkdir()
    Path("model/config.json").write_text("{}")
    Path("model/model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    Path("tools_1.jsonl").write_text("")
    Path("empty").mkdir()
    Path("held").mkdir()
    Path("held/test.jsonl").write_text("{}")
    return Config(
        model=ModelConfig("model"),
        parallel=ParallelConfig(tensor=2, pipeline=2, sequence=True),
        data=DataConfig(sequence_length=512, sources=[SourceConfig("tools", "tools_*.jsonl", "agent")]),
        batch=BatchConfig(rows=8, micro_rows=2),
        train=TrainConfig(steps=10),
    )


def changed(config: Config, **keys: Any) -> Config:
    """`section__name=value` for each key."""
    for key, value in keys.items():
        section, name = key.split("__")
        config = replace(config, **{section: replace(getattr(config, section), **{name: value})})
    return config


def refusal(
    config: Config, shape: ModelShape = SHAPE, vocab: int | None = 1000, processes: int | None = 4
) -> str:
    with pytest.raises(ConfigError) as caught:
        check_config(config, shape, vocab, processes)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_config_that_works(config: Config) -> None:
    assert check_config(config, SHAPE, 1000, 4) == Layout(tensor=2, pipeline=2, data=1, sequence=True)
    assert check_config(config, SHAPE, 999, 8).data == 2
    assert check_config(config, SHAPE, None, None).data == 1
    apart = changed(config, evaluation__every=5, evaluation__sources=[HELD_OUT])
    assert check_config(apart, SHAPE, 1000, 4).world_size == 4
    epochs = changed(config, train__steps=None, train__epochs=0.5)
    assert check_config(epochs, SHAPE, 1000, 4).world_size == 4


SOURCE = SourceConfig("tools", "tools_*.jsonl", "agent")
HELD_OUT = HeldOutSource("tools", "tools_*.jsonl")

# Changes, then words for value, limit and remedy, in the order they stand in the line.
REFUSED: list[tuple[dict[str, Any], list[str]]] = [
    # numbers
    ({"train__steps": 0}, ["train.steps=0", "at least 1", "set train.steps"]),
    ({"train__steps": -3}, ["train.steps=-3", "at least 1", "set"]),
    ({"train__steps": None}, ["train.steps=null", "neither", "exactly 1", "set one"]),
    ({"train__epochs": 2.0}, ["train.steps=10, train.epochs=2.0", "both", "exactly 1", "set one"]),
    ({"train__steps": None, "train__epochs": 0.0}, ["train.epochs=0.0", "more than 0", "set"]),
    ({"batch__rows": 0}, ["batch.rows=0", "at least 1", "set"]),
    ({"batch__micro_rows": 0}, ["batch.micro_rows=0", "at least 1", "set"]),
    ({"parallel__tensor": 0}, ["parallel.tensor=0", "at least 1", "set"]),
    ({"parallel__pipeline": -1}, ["parallel.pipeline=-1", "at least 1", "set"]),
    ({"parallel__data": 0}, ["parallel.data=0", "at least 1", "set"]),
    ({"parallel__data": "all"}, ["parallel.data=all", "whole number or auto", "set parallel.data=auto"]),
    ({"data__sequence_length": 0}, ["data.sequence_length=0", "at least 1", "set"]),
    ({"data__pack_window": 0}, ["data.pack_window=0", "at least 1", "set"]),
    ({"data__eta": 1.5}, ["data.eta=1.5", "at least 0 and at most 1", "set"]),
    ({"data__eta": -0.1}, ["data.eta=-0.1", "at least 0 and at most 1", "set"]),
    ({"data__eta": float("nan")}, ["data.eta=nan", "at least 0 and at most 1", "set"]),
    ({"run__seed": -1}, ["run.seed=-1", "at least 0", "set"]),
    ({"optimizer__lr": 0.0}, ["optimizer.lr=0.0", "more than 0", "set"]),
    ({"optimizer__lr": float("inf")}, ["optimizer.lr=inf", "more than 0", "set"]),
    ({"optimizer__eps": 0.0}, ["optimizer.eps=0.0", "more than 0", "set"]),
    ({"optimizer__betas": (0.9, 1.0)}, ["optimizer.betas=1.0", "at least 0 and less than 1", "set"]),
    ({"optimizer__betas": (-0.1, 0.9)}, ["optimizer.betas=-0.1", "at least 0 and less than 1", "set"]),
    ({"optimizer__weight_decay": -0.1}, ["optimizer.weight_decay=-0.1", "at least 0", "set"]),
    ({"optimizer__clip": -1.0}, ["optimizer.clip=-1.0", "at least 0", "set"]),
    ({"optimizer__warmup_ratio": 1.1}, ["optimizer.warmup_ratio=1.1", "at most 1", "set"]),
    ({"optimizer__min_lr_ratio": -0.2}, ["optimizer.min_lr_ratio=-0.2", "at least 0", "set"]),
    ({"checkpoint__every": 0}, ["checkpoint.every=0", "at least 1", "set"]),
    ({"checkpoint__keep": 0}, ["checkpoint.keep=0", "at least 1", "set"]),
    ({"evaluation__every": 0}, ["evaluation.every=0", "at least 1", "set"]),
    ({"evaluation__rows": 0}, ["evaluation.rows=0", "at least 1", "set"]),
    ({"evaluation__held_out": 1.0}, ["evaluation.held_out=1.0", "at least 0 and less than 1", "set"]),
    # files
    (
        {"evaluation__every": 5},
        ["evaluation.every=5", "0 rows", "set evaluation.held_out", "evaluation.sources"],
    ),
    (
        {"evaluation__sources": [HELD_OUT], "evaluation__held_out": 0.1},
        ["evaluation.held_out=0.1", "1 evaluation.sources", "only 1 of the two", "set it to 0"],
    ),
    (
        {"evaluation__sources": [HELD_OUT, HELD_OUT]},
        ["evaluation.sources.1.name=tools", "2 sources", "at most 1", "rename"],
    ),
    (
        {"evaluation__sources": [replace(HELD_OUT, path="absent/*.jsonl")]},
        ["evaluation.sources.0.path=absent/*.jsonl", "0 files", "at least 1", "correct the path"],
    ),
    ({"data__sources": []}, ["data.sources=[]", "at least 1", "add one"]),
    (
        {"data__sources": [SOURCE, replace(SOURCE, path="tools_1.jsonl")]},
        ["data.sources.1.name=tools", "2 sources", "at most 1", "rename"],
    ),
    (
        {"data__sources": [replace(SOURCE, path="absent/*.jsonl")]},
        ["data.sources.0.path=absent/*.jsonl", "0 files", "at least 1", "correct the path"],
    ),
    (
        {"data__sources": [replace(SOURCE, path="held")]},
        ["data.sources.0.path=held", "1 files are test or validation", "held/*.jsonl"],
    ),
    (
        {"data__sources": [replace(SOURCE, path="empty")]},
        ["path=empty: 0 files match (of a folder", "correct"],
    ),
    (
        {"data__sources": [replace(SOURCE, weight=0.0)]},
        ["data.sources.0.weight=0.0", "more than 0", "remove the source"],
    ),
    ({"model__path": "absent"}, ["model.path=absent", "no such folder", "Hugging Face folder", "download"]),
    ({"model__path": "empty"}, ["model.path=empty", "no config.json", "Hugging Face folder", "download"]),
    # products
    (
        {"parallel__tensor": 3, "parallel__pipeline": 1},
        ["processes=4", "multiple of tensor 3 x pipeline 1 = 3", "start 3 processes"],
    ),
    (
        {"parallel__data": 2},
        ["processes=4", "must equal", "= 8", "start 8 processes or change parallel.tensor"],
    ),
    ({"parallel__tensor": 8}, ["processes=4", "multiple of tensor 8 x pipeline 2 = 16", "start 16"]),
    (
        {"batch__rows": 7},
        ["data 1 x batch.micro_rows 2=2", "must divide batch.rows (7)", "multiple of 2 such as 8"],
    ),
    (
        {"batch__micro_rows": 16},
        ["batch.micro_rows 16=16", "must divide batch.rows (8)", "multiple of 16 such as 16"],
    ),
    (
        {"data__sequence_length": 511},
        [
            "parallel.tensor=2",
            "must divide data.sequence_length (511)",
            "set data.sequence_length=510",
            "=false",
        ],
    ),
    # limits
    ({"data__sequence_length": 602}, ["data.sequence_length=602", "at most", "(600)", "=600 or less"]),
]


@pytest.mark.parametrize(("changes", "words"), REFUSED, ids=lambda value: ",".join(value))
def test_value_limit_and_remedy(config: Config, changes: dict[str, Any], words: list[str]) -> None:
    line = refusal(changed(config, **changes))
    at = 0
    for word in words:
        assert word in line[at:], line
        at = line.index(word, at)


@pytest.mark.parametrize(
    ("sizes", "processes", "words"),
    [
        ({"tensor": 8}, 8, ["parallel.tensor=8", "attention heads (12)", "one of 1, 2, 4"]),
        ({"tensor": 3}, 3, ["parallel.tensor=3", "key-value heads (4)", "one of 1, 2, 4"]),
        ({"tensor": 2}, 2, ["parallel.tensor=2", "intermediate size (261)", "one of 1"]),
        (
            {"pipeline": 7},
            7,
            ["parallel.pipeline=7", "the model's layers (6)", "set parallel.pipeline=6 or less"],
        ),
    ],
)
def test_layout_against_the_model(
    config: Config, sizes: dict[str, int], processes: int, words: list[str]
) -> None:
    shape = replace(SHAPE, intermediate=261) if sizes == {"tensor": 2} else SHAPE
    config = replace(config, parallel=replace(ParallelConfig(), **sizes))
    line = refusal(config, shape, processes=processes)
    for word in words:
        assert word in line


@pytest.mark.parametrize(
    ("pipeline", "rows", "words"),
    [
        (1, 8, ["pipeline=1: at least 2 needed; set parallel.schedule=1f1b or"]),
        (4, 16, ["pipeline=4: ", "= 8, at most the model's layers (6); set parallel.pipeline=3 or less, or"]),
        (
            3,
            10,
            ["pipeline=3: 5 micro-batches", "at least 2 x pipeline = 6 needed; set batch.rows=12 or more"],
        ),
    ],
)
def test_what_dualpipev_needs(config: Config, pipeline: int, rows: int, words: list[str]) -> None:
    parallel = ParallelConfig(pipeline=pipeline, schedule="dualpipev")
    config = replace(config, parallel=parallel, batch=BatchConfig(rows=rows, micro_rows=2))
    line = refusal(config, processes=pipeline)
    assert line.startswith("parallel.schedule=dualpipev with parallel.")
    for word in words:
        assert word in line
    assert "parallel.schedule=1f1b" in line


def test_dualpipev_that_works(config: Config) -> None:
    """With the fewest layers and micro-batches that do, on one copy of the model and on two."""
    parallel = ParallelConfig(pipeline=3, schedule="dualpipev")
    for copies in (1, 2):
        least = replace(config, parallel=parallel, batch=BatchConfig(rows=12 * copies, micro_rows=2))
        layout = check_config(least, SHAPE, 1000, 3 * copies)
        assert layout == Layout(1, 3, copies, schedule="dualpipev")
        assert str(layout) == f"tensor 1 x pipeline 3 x data {copies} under dualpipev"
        assert [layout.stage_of(part) for part in range(layout.parts)] == [0, 1, 2, 2, 1, 0]


def test_tokenizer_larger_than_the_model(config: Config) -> None:
    line = refusal(config, vocab=1001)
    assert "tokenizer vocabulary=1001" in line
    assert "the model's vocabulary (1000)" in line
    assert "use the tokenizer" in line


def test_a_source_may_be_a_folder_or_a_data_set_of_the_hub(config: Config) -> None:
    """What the Hub has is known when it is fetched; what is here counts as it is."""

    def with_path(path: str) -> Config:
        return changed(config, data__sources=[replace(SOURCE, path=path)])

    Path("rows/train").mkdir(parents=True)
    Path("rows/train/a[1].jsonl").write_text("")
    for path in ("rows", "rows/train/a[1].jsonl", "owner/name", "hf://datasets/owner/name@v1/data/*.parquet"):
        check_config(with_path(path), SHAPE, 1000, 4)
    Path("owner/name").mkdir(parents=True)
    for path in ("owner/name", "owner/absent.jsonl", "hf://models/owner/name", "a/b/c"):
        assert f"data.sources.0.path={path}: 0 files match" in refusal(with_path(path))


def test_rows_are_shared_by_the_copies(config: Config) -> None:
    # Fine for one copy of the model, not for three.
    assert "must divide batch.rows (8)" in refusal(config, processes=12)


positive = st.integers(1, 6)


@given(positive, positive, positive, positive, positive)
def test_layout_covers_processes_and_rows(
    tensor: int, pipeline: int, data: int, micro_rows: int, micro_batches: int
) -> None:
    batch = BatchConfig(rows=data * micro_rows * micro_batches, micro_rows=micro_rows)
    auto = Config(parallel=ParallelConfig(tensor=tensor, pipeline=pipeline, sequence=True), batch=batch)
    layout = resolve_layout(auto, tensor * pipeline * data)
    assert layout == Layout(tensor, pipeline, data, sequence=True)
    assert layout.world_size == tensor * pipeline * data
    assert layout.micro_batches(batch) == micro_batches
    fixed = replace(auto, parallel=replace(auto.parallel, data=data))
    assert resolve_layout(fixed, None) == layout
    assert resolve_layout(auto, None).data == 1


def test_a_run_that_begins_anew_does_not_put_its_own_model_aside(config: Config) -> None:
    held = Path("run/checkpoints/step-00000001")
    held.mkdir(parents=True)
    for file in Path("model").iterdir():
        (held / file.name).write_bytes(file.read_bytes())
    anew = changed(config, run__output_dir="run", checkpoint__resume="never", model__path=str(held))
    with pytest.raises(ConfigError, match=r"step-00000001 would be put aside by .*set run.output_dir"):
        check_config(anew, SHAPE, None, None)
    check_config(changed(anew, run__output_dir="other"), SHAPE, None, None)
