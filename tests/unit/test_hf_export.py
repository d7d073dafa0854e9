from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from math import prod
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from configs.shapes import SHAPES, ModelShape
from trainer.checkpoint.hf_export import copy_companions, shard_plan, write_weights
from trainer.checkpoint.hf_import import load_weights, tensor_files
from trainer.model.names import stage_table
from trainer.parallel.grid import Grid
from trainer.parallel.stages import balance, layer_costs

TINY = ModelShape(
    vocab=11, hidden=8, intermediate=12, layers=4, heads=4, kv_heads=2, head_dim=2, max_positions=16
)


@settings(deadline=None)
@given(st.integers(1, 4), st.sampled_from([2, 4]), st.integers(1, 4000), st.booleans())
def test_every_tensor_is_in_one_shard_of_its_stage(
    stages: int, item_bytes: int, max_bytes: int, tied: bool
) -> None:
    shape = replace(TINY, tied=tied)
    bounds = balance(layer_costs(shape, 16), stages)
    plan = shard_plan(shape, bounds, item_bytes, max_bytes)
    sizes = {name: prod(size) * item_bytes for name, size in shape.tensors().items()}
    assert [name for shard in plan for name in shard.names] == list(sizes)  # in the order of the forward pass
    assert [shard.stage for shard in plan] == sorted(shard.stage for shard in plan)
    assert {shard.stage for shard in plan} == set(range(stages))
    for shard in plan:
        assert len(shard.names) == 1 or sum(sizes[name] for name in shard.names) <= max_bytes
    for one, two in pairwise(plan):
        if one.stage == two.stage:  # a new file only where it was needed
            assert sum(sizes[name] for name in one.names) + sizes[two.names[0]] > max_bytes
    count = len(plan)
    expected = [f"model-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)]
    assert [shard.file for shard in plan] == (expected if count > 1 else ["model.safetensors"])


def test_shards_of_7b_on_one_stage() -> None:
    """AgentLM-7B was released as two files, of 9.98 and 3.5 GB; with at most 10 GB ours are about those."""
    shape = SHAPES["llama2-7b"]
    plan = shard_plan(shape, [0, shape.layers + 3], 2, 10_000_000_000)
    sizes = shape.tensors()
    gigabytes = [sum(2 * prod(sizes[name]) for name in shard.names) / 1e9 for shard in plan]
    assert gigabytes == pytest.approx([9.98, 3.5], abs=0.1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tied", [False, True])
def test_one_rank_there_and_back(dtype: torch.dtype, tied: bool, single_rank: Grid, tmp_path: Path) -> None:
    shape = replace(TINY, tied=tied)
    weights = {name: torch.randn(size).to(dtype) for name, size in shape.tensors().items()}
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    save_file(weights, tmp_path / "in/model.safetensors")
    bounds = [0, shape.layers + 3]
    table = stage_table(shape, *bounds)
    heights = {name: sum(piece.shape[0] for piece in pieces) for name, pieces in table.items()}
    parameters = {
        name: nn.Parameter(torch.full((heights[name], *pieces[0].shape[1:]), float("nan"), dtype=dtype))
        for name, pieces in table.items()
    }
    load_weights(tmp_path / "in", shape, table, parameters, 0, 1)
    both = parameters["1.feed_forward.gate_up.weight"]
    gate, up = (weights[f"model.layers.0.mlp.{name}_proj.weight"] for name in ("gate", "up"))
    assert torch.equal(both, torch.cat([gate, up]))  # SwiGLU takes its gate from the first half
    write_weights(tmp_path / "out", shape, bounds, parameters, single_rank)
    back = load_file(tmp_path / "out/model.safetensors")
    assert back.keys() == weights.keys()
    assert all(
        torch.equal(back[name], weight) and back[name].dtype is dtype for name, weight in weights.items()
    )


@pytest.mark.parametrize("tensor", [2, 3, 4])
def test_rows_that_pad_the_vocabulary_are_zero(tensor: int, tmp_path: Path) -> None:
    weights = {name: torch.randn(size) for name, size in TINY.tensors().items()}
    save_file(weights, tmp_path / "model.safetensors")
    table = {"0.word.weight": stage_table(TINY, 0, 1)["0.word.weight"]}
    rows = -(-TINY.vocab // tensor)
    slices: list[torch.Tensor] = []
    for rank in range(tensor):
        parameter = nn.Parameter(torch.full((rows, TINY.hidden), float("nan")))
        load_weights(tmp_path, TINY, table, {"0.word.weight": parameter}, rank, tensor)
        slices.append(parameter.detach())
    whole = torch.cat(slices)
    assert torch.equal(whole[: TINY.vocab], weights["model.embed_tokens.weight"])
    assert not whole[TINY.vocab :].any()


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    save_file(
        {name: torch.zeros(size) for name, size in TINY.tensors().items()}, tmp_path / "model.safetensors"
    )
    wider = replace(TINY, hidden=9)
    table = {"0.word.weight": stage_table(wider, 0, 1)["0.word.weight"]}
    parameters = {"0.word.weight": nn.Parameter(torch.zeros(11, 9))}
    with pytest.raises(ValueError, match=r"embed_tokens.weight has shape \(11, 8\).*\(11, 9\)"):
        load_weights(tmp_path, wider, table, parameters, 0, 1)


def test_pickled_weights_are_never_read(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"no model\.safetensors"):
        tensor_files(tmp_path)


@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
def test_companions(key: str, tmp_path: Path) -> None:
    source, folder = tmp_path / "model", tmp_path / "out"
    source.mkdir()
    folder.mkdir()
    (source / "config.json").write_text(json.dumps({"model_type": "llama", key: "float16", "kept": [1, 2]}))
    companions = {"generation_config.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json"}
    companions |= {"special_tokens_map.json", "chat_template.jinja"}
    for name in companions | {"model.safetensors", "pytorch_model.bin", "modeling_llama.py", "README.md"}:
        (source / name).write_bytes(name.encode())
    copy_companions(source, folder, torch.bfloat16)
    assert {file.name for file in folder.iterdir()} == companions | {"config.json"}
    assert all((folder / name).read_bytes() == name.encode() for name in companions)
    config = json.loads((folder / "config.json").read_text())
    assert config == {"model_type": "llama", key: "bfloat16", "kept": [1, 2]}
