"""A Hugging Face folder through the ranks comes back bit by bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rank_pool import RankPool
from safetensors import safe_open
from tiny import layout, read_weights, write_config, write_model
from transformers import AutoModelForCausalLM, AutoTokenizer

LAYOUTS = [(1, 1), (2, 1), (4, 1), (1, 2), (2, 2), (4, 2)]


def convert(
    ranks: RankPool, model: Path, folder: Path, size: tuple[int, int], dtype: str = "float32", **options: int
) -> Path:
    """`model` through tensor x pipeline ranks into `folder`/out."""
    config = write_config(folder / "run.yaml", model, model={"dtype": dtype})
    out = folder / "out"
    ranks.run(
        "convert",
        size[0] * size[1],
        config=str(config),
        overrides=layout(*size),
        export=str(out),
        **options,
    )
    return out


def assert_same_bits(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, weight in theirs.items():
        assert ours[name].dtype == weight.dtype, name
        assert ours[name].shape == weight.shape, name
        assert torch.equal(ours[name].view(torch.uint8), weight.view(torch.uint8)), name


@torch.no_grad()
def assert_transformers_agrees(ours: Path, theirs: Path) -> None:
    """The folder loads with no tensor missing or left over, and gives the same logits bit by bit."""
    models = []
    for folder in (ours, theirs):
        loaded: Any = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, dtype="auto")
        model, report = loaded
        assert not any(report.values()), report
        models.append(model)
    tokens = torch.arange(3, 43)[None]
    assert torch.equal(*(model(input_ids=tokens).logits for model in models))
    assert len(AutoTokenizer.from_pretrained(ours)) == 1201


@pytest.mark.parametrize("size", LAYOUTS, ids=lambda size: f"TP{size[0]} PP{size[1]}")
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_float32(
    size: tuple[int, int], tied: bool, ranks: RankPool, model: Path, tied_model: Path, tmp_path: Path
) -> None:
    source = tied_model if tied else model
    out = convert(ranks, source, tmp_path, size)
    assert_same_bits(read_weights(out), read_weights(source))
    assert_transformers_agrees(out, source)
    assert json.loads((out / "config.json").read_text())["dtype"] == "float32"


@pytest.mark.parametrize(("size", "tied"), [((2, 2), False), ((4, 1), True)], ids=["TP2 PP2", "TP4 tied"])
def test_bfloat16(size: tuple[int, int], tied: bool, ranks: RankPool, tmp_path: Path) -> None:
    source = write_model(tmp_path / "model", dtype=torch.bfloat16, tie_word_embeddings=tied)
    out = convert(ranks, source, tmp_path, size, "bfloat16")
    assert_same_bits(read_weights(out), read_weights(source))
    assert_transformers_agrees(out, source)
    assert json.loads((out / "config.json").read_text())["dtype"] == "bfloat16"


def test_trained_in_bfloat16_from_float32(ranks: RankPool, model: Path, tmp_path: Path) -> None:
    out = convert(ranks, model, tmp_path, (2, 2), "bfloat16")
    rounded = {name: weight.bfloat16() for name, weight in read_weights(model).items()}
    assert_same_bits(read_weights(out), rounded)
    assert json.loads((out / "config.json").read_text())["dtype"] == "bfloat16"


def test_many_shards_in_and_out(ranks: RankPool, tmp_path: Path) -> None:
    source = write_model(tmp_path / "model", shard="200KB")
    assert (source / "model.safetensors.index.json").is_file()
    out = convert(ranks, source, tmp_path, (2, 2), max_bytes=100_000)
    assert_same_bits(read_weights(out), read_weights(source))
    assert_transformers_agrees(out, source)
    index = json.loads((out / "model.safetensors.index.json").read_text())
    files = sorted(out.glob("*.safetensors"))
    assert len(files) > 4
    assert {file.name for file in files} == set(index["weight_map"].values())
    for file in files:
        with safe_open(file, framework="pt") as tensors:
            names = list(tensors.keys())
        assert {name for name, home in index["weight_map"].items() if home == file.name} == set(names)
        assert (
            file.stat().st_size < 100_000 + 20_000 or len(names) == 1
        )  # a header of names beside the tensors
    weights = read_weights(source).values()
    assert index["metadata"]["total_size"] == sum(weight.nbytes for weight in weights)
