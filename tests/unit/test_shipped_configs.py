"""Every YAML in configs/ loads and passes its checks, and the Llama 2 ones hold the published recipe."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from configs.check import check_config
from configs.layout import Layout
from configs.load import load_config
from configs.schema import Config
from configs.shapes import SHAPES, ModelShape

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
# File -> the shape its model has, the processes it is meant for, the layout they give.
SHIPPED = {
    "demo": ("tiny", 4, Layout(tensor=2, pipeline=2, data=1)),
    "llama2_7b": ("llama2-7b", 8, Layout(tensor=2, pipeline=1, data=4, sequence=True)),
    "llama2_13b": ("llama2-13b", 8, Layout(tensor=4, pipeline=1, data=2, sequence=True)),
    "llama2_70b": ("llama2-70b", 32, Layout(tensor=8, pipeline=4, data=1, sequence=True)),
}
LLAMA2 = [name for name in SHIPPED if name != "demo"]


def shipped(name: str) -> Config:
    return load_config(CONFIGS / f"{name}.yaml")


def test_none_is_left_out() -> None:
    assert {file.stem for file in CONFIGS.glob("*.yaml")} == SHIPPED.keys()


@pytest.mark.parametrize("name", SHIPPED)
def test_passes_its_checks(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shape_name, processes, layout = SHIPPED[name]
    config = shipped(name)
    monkeypatch.chdir(tmp_path)  # where its data and model stand in for the real ones
    for path in (*(source.path for source in config.data.sources), f"{config.model.path}/model.safetensors"):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes((2).to_bytes(8, "little") + b"{}")
    Path(config.model.path, "config.json").write_text(json.dumps(SHAPES[shape_name].hf_config()))
    shape = ModelShape.from_folder(config.model.path)
    assert shape == SHAPES[shape_name]
    assert check_config(config, shape, shape.vocab, processes) == layout


def test_demo_uses_the_bundled_data() -> None:
    config = shipped("demo")
    for source in config.data.sources:
        assert (CONFIGS.parent / source.path).is_file()
    assert config.model.dtype == "float32"
    assert {(source.name, source.role) for source in config.data.sources} == {
        ("agent", "agent"),
        ("general", "general"),
    }


@pytest.mark.parametrize(("name", "rate"), [("llama2_7b", 5e-5), ("llama2_13b", 5e-5), ("llama2_70b", 1e-5)])
def test_published_recipe(name: str, rate: float) -> None:
    config = shipped(name)
    assert (config.optimizer.lr, config.optimizer.schedule, config.optimizer.warmup_ratio) == (
        rate,
        "cosine",
        0.02,
    )
    assert (config.batch.rows, config.data.sequence_length) == (64, 4096)
    assert (config.train.steps, config.train.epochs) == (2000, None)
    assert (config.data.eta, config.data.eta_unit, config.data.template) == (0.2, "samples", "llama2")
    assert config.data.system_prompt == "You are a helpful, respectful and honest assistant."
    assert config.model.dtype == "bfloat16"
    weights = {
        role: {s.name: s.weight for s in config.data.sources if s.role == role}
        for role in ("agent", "general")
    }
    assert weights["agent"] == {
        "os": 195,
        "db": 538,
        "alfworld": 336,
        "webshop": 351,
        "kg": 324,
        "mind2web": 122,
    }
    assert sum(weights["agent"].values()) == 1866  # trajectories in AgentInstruct
    assert weights["general"]["sharegpt_gpt35"] == 4 * weights["general"]["sharegpt_gpt4"]


def test_the_three_sizes_differ_only_where_they_must() -> None:
    first, *others = (
        replace(
            config,
            run=replace(config.run, output_dir=""),
            model=replace(config.model, path=""),
            parallel=replace(config.parallel, tensor=1, pipeline=1, recompute="none"),
            optimizer=replace(config.optimizer, lr=1.0),
            wandb=replace(config.wandb, name=None),
        )
        for config in map(shipped, LLAMA2)
    )
    assert all(other == first for other in others)
