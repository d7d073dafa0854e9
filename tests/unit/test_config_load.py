"""YAML and overrides in, a frozen Config out; each mistake is one line that names its key."""

from __future__ import annotations

import string
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.errors import ConfigError
from configs.load import known_keys, load_config, save_config
from configs.schema import (
    BatchConfig,
    CheckpointConfig,
    Config,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    ParallelConfig,
    RunConfig,
    SourceConfig,
    TrainConfig,
)

YAML = """
run:
  seed: 7
  output_dir: runs/${run.seed}
model: {path: models/small}
data:
  sources:
    - {name: tools, path: tools.jsonl, role: agent}
    - {name: chat, path: chat.jsonl, role: general, weight: 3}
optimizer:
  lr: 5e-5
train:
  # steps: 10
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(YAML)
    return path


def test_file_over_defaults(file: Path) -> None:
    config = load_config(file)
    assert config.run == RunConfig(output_dir="runs/7", seed=7)  # refers to another key
    assert config.model == ModelConfig(path="models/small", dtype="bfloat16")
    assert config.data.sources == [
        SourceConfig("tools", "tools.jsonl", "agent", 1.0, "auto"),
        SourceConfig("chat", "chat.jsonl", "general", 3.0, "auto"),
    ]
    assert config.optimizer.lr == 5e-5  # YAML 1.1 alone reads 5e-5 as text
    assert config.train == TrainConfig()  # a heading without lines
    with pytest.raises(FrozenInstanceError):
        config.run.seed = 8  # pyright: ignore[reportAttributeAccessIssue]


def test_overrides(file: Path) -> None:
    config = load_config(
        str(file),
        [
            "optimizer.lr=1e-4",
            "data.sources.1.weight=0.5",
            "optimizer.betas=[0.8, 0.9]",
            "parallel.data=2",
            "train.steps=5",
            "run.seed=9",
            "wandb.name=a=b",
        ],
    )
    assert config.optimizer.lr == 1e-4
    assert config.optimizer.betas == (0.8, 0.9)
    assert [source.weight for source in config.data.sources] == [1.0, 0.5]
    assert config.parallel.data == 2
    assert config.train.steps == 5
    assert config.run.output_dir == "runs/9"
    assert config.wandb.name == "a=b"


def test_later_override_wins_and_null_takes_back(file: Path) -> None:
    config = load_config(file, ["train.steps=5", "train.steps=6", "train.epochs=2", "train.epochs=null"])
    assert config.train == TrainConfig(steps=6, epochs=None)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("optimizer.learning_rate=1", ["optimizer.learning_rate", "unknown key"]),
        ("optimizer.lrr=1", ["optimizer.lrr", "nearest known key is optimizer.lr"]),
        ("lr=1", ["lr: unknown", "nearest known key is optimizer.lr"]),
        ("parallel.tensors=2", ["parallel.tensors", "nearest known key is parallel.tensor"]),
        ("paralel.tensor=2", ["paralel: unknown", "nearest known key is parallel"]),
        ("data.sources.0.wieght=2", ["data.sources.0.wieght", "nearest known key is data.sources.0.weight"]),
        ("data.sources.2.weight=2", ["data.sources.2.weight", "2 entries", "0 to 1"]),
        ("data.sources.first.weight=2", ["data.sources.first.weight", "0 to 1"]),
        ("run.seed.x=1", ["run.seed", "single value"]),
        ("optimizer.lr=fast", ["optimizer.lr=fast", "must be a number"]),
        ("parallel.tensor=2.5", ["parallel.tensor=2.5", "must be a whole number"]),
        ("parallel.tensor=true", ["parallel.tensor=True", "must be a whole number"]),
        ("run.seed=null", ["run.seed=null", "must be a whole number"]),
        ("train.steps=many", ["train.steps=many", "must be a whole number or null"]),
        ("parallel.sequence=maybe", ["parallel.sequence=maybe", "must be true or false"]),
        ("model.dtype=float16", ["model.dtype=float16", "one of float32, bfloat16"]),
        ("data.sources.0.role=tool", ["data.sources.0.role=tool", "one of agent, general"]),
        ("optimizer.betas=[0.9]", ["optimizer.betas=[0.9]", "a list of 2 numbers"]),
        ("optimizer=3", ["optimizer=3", "must be a section"]),
        ("data.sources=3", ["data.sources=3", "must be a list"]),
        ("data.sources=[3]", ["data.sources.0=3", "must be a section"]),
        ("data.sources=[{name: a, path: b}]", ["data.sources.0.role: no value", "data.sources.0.role="]),
        ("model.path=${oc.env:HOME}", ["model.path=${oc.env:HOME}", "references to other keys"]),
        ("model.path=${run.sed}", ["model.path", "run.sed", "not found"]),
        ("model.path=${model.path}", ["model.path", "ecursive"]),
        ("optimizer.lr", ["optimizer.lr", "KEY=VALUE"]),
        ("=3", ["=3", "KEY=VALUE"]),
        ("run.seed=[", ["run.seed=[", "no YAML value"]),
    ],
)
def test_mistakes_in_one_line(file: Path, override: str, says: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(file, [override])
    line = str(caught.value)
    assert "\n" not in line
    for words in says:
        assert words in line


def test_mistakes_in_the_file_read_the_same(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("data: {sources: [{name: a, pth: b, role: agent}]}")
    with pytest.raises(ConfigError, match=r"data\.sources\.0\.pth: .* data\.sources\.0\.path"):
        load_config(file)
    file.write_text("model: {path: a}\nmodel: {path: b}\n")
    with pytest.raises(ConfigError, match="duplicate"):
        load_config(file)


def test_required_key(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("")
    with pytest.raises(ConfigError, match=r"model\.path: no value"):
        load_config(file)
    assert load_config(file, ["model.path=m"]) == Config(model=ModelConfig(path="m"))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "no such config file"),
        (b"run: [", "no YAML that can be read"),
        (b"\xff\xfe\x00", "no YAML that can be read"),
        (b"- 1\n- 2\n", "holds a list"),
    ],
)
def test_file_that_is_no_config(tmp_path: Path, content: bytes | None, says: str) -> None:
    file = tmp_path / "run.yaml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=says) as caught:
        load_config(file)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_folder_is_no_config(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path)


def test_known_keys_have_their_lists() -> None:
    assert {"run.seed", "optimizer.betas", "data.sources.*.weight"} <= set(known_keys())


words = st.text(string.ascii_letters + string.digits + " ._-/:#'\"éß日\n", min_size=1)
counts = st.integers(1, 10**9)
shares = st.floats(0, 1)
configs = st.builds(
    Config,
    run=st.builds(RunConfig, words, counts),
    model=st.builds(ModelConfig, words, st.sampled_from(["float32", "bfloat16"])),
    parallel=st.builds(ParallelConfig, counts, counts, counts | st.just("auto"), st.booleans()),
    data=st.builds(
        DataConfig,
        system_prompt=st.none() | words,
        sources=st.lists(
            st.builds(SourceConfig, words, words, st.sampled_from(["agent", "general"]), st.floats(0.01, 1e6))
        ),
        eta=shares,
    ),
    batch=st.builds(BatchConfig, counts, counts),
    train=st.builds(TrainConfig, st.none() | counts, st.none() | st.floats(0.1, 1e3)),
    optimizer=st.builds(OptimizerConfig, st.floats(1e-12, 1), st.tuples(shares, shares)),
    checkpoint=st.builds(CheckpointConfig, st.none() | counts),
)


@settings(deadline=None, max_examples=40)
@given(configs)
def test_saved_config_reads_back_equal(tmp_path_factory: pytest.TempPathFactory, config: Config) -> None:
    file = tmp_path_factory.getbasetemp() / "saved.yaml"
    save_config(config, file)
    assert load_config(file) == config
