from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from configs.errors import ConfigError
from configs.layout import Layout
from configs.schema import Config, DataConfig, ModelConfig
from configs.shapes import SHAPES, ModelShape
from configs.weights import tensor_files
from tokenization.bundle import write_bundle
from trainer.checkpoint import hf_export, hf_import
from trainer.checkpoint.hf_export import gathered_tensors, write_shards
from trainer.checkpoint.hf_import import fresh_ids, load_weights, mean_row
from trainer.checkpoint.manifest import FileRecord
from trainer.checkpoint.postponed import GivenUpError, Postponed
from trainer.checkpoint.shards import shard_plan
from trainer.checkpoint.tensors import Entry, Joined
from trainer.data.open import open_builder
from trainer.model.names import Piece, stage_table
from trainer.parallel.grid import Grid

TINY = ModelShape(
    vocab=11, hidden=8, intermediate=12, layers=4, heads=4, kv_heads=2, head_dim=2, max_positions=16
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tied", [False, True])
def test_one_rank_there_and_back(dtype: torch.dtype, tied: bool, single_rank: Grid, tmp_path: Path) -> None:
    shape = replace(TINY, tied=tied)
    weights = {name: torch.randn(size).to(dtype) for name, size in shape.tensors().items()}
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    save_file(weights, tmp_path / "in/model.safetensors")
    stages = [(range(shape.layers + 3),)]
    table = stage_table(shape, stages[0])
    heights = {name: sum(piece.shape[0] for piece in pieces) for name, pieces in table.items()}
    parameters = {
        name: nn.Parameter(torch.full((heights[name], *pieces[0].shape[1:]), float("nan"), dtype=dtype))
        for name, pieces in table.items()
    }
    load_weights(tmp_path / "in", shape, table, parameters, 0, 1)
    both = parameters["1.feed_forward.gate_up.weight"]
    gate, up = (weights[f"model.layers.0.mlp.{name}_proj.weight"] for name in ("gate", "up"))
    assert torch.equal(both, torch.cat([gate, up]))  # SwiGLU takes its gate from the first half
    (shard,) = shard_plan(shape, stages, dtype.itemsize, Layout(1, 1, 1))
    masters = {name: parameter.detach().float() for name, parameter in parameters.items()}
    failures = Postponed(tmp_path / "mark")
    written = write_shards(tmp_path / "out", {shard: masters}, table, dtype, single_rank, failures)
    failures.settle()
    assert written.keys() == {"model.safetensors"}
    back = load_file(tmp_path / "out/model.safetensors")
    assert back.keys() == weights.keys()
    assert all(
        torch.equal(back[name], weight) and back[name].dtype is dtype for name, weight in weights.items()
    )


@pytest.mark.parametrize("rank", [0, 1])
def test_all_ranks_have_a_tensor_before_any_writes(
    rank: int, single_rank: Grid, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Else one would write while the others wait in the gather of theirs."""
    layout, stages = Layout(2, 1, 1), [(range(TINY.layers + 3),)]
    plan = shard_plan(TINY, stages, 4, layout, 1200, 0)[:2]
    assert [shard.tensor_rank for shard in plan] == [0, 1]
    firsts = [shard.names[:2] for shard in plan]
    gathered: list[str] = []

    def gather(local: torch.Tensor, piece: Piece, dtype: torch.dtype, grid: Grid, to: int, *_: Any) -> Any:
        gathered.append(piece.name)
        return Joined([torch.zeros(piece.shape)]) if to == rank else None

    def written(file: Path, entries: Mapping[str, Entry], tensors: Iterator[Joined]) -> FileRecord:
        assert [tuple(size) for _, size in entries.values()] == [TINY.tensors()[n] for n in plan[rank].names]
        for count in (1, 2):
            next(tensors)
            assert gathered == [name for names in zip(*firsts, strict=True) for name in names][: 2 * count]
        assert len(list(tensors)) == len(plan[rank].names) - 2
        return FileRecord(0, "")

    monkeypatch.setattr(hf_export, "gather_piece", gather)
    monkeypatch.setattr(hf_export, "write_stream", written)
    grid = replace(single_rank, layout=layout, tensor_rank=rank)
    table = stage_table(TINY, stages[0])
    weights = {name: torch.zeros(400, 12) for name in table}
    write_shards(
        tmp_path, dict.fromkeys(plan, weights), table, torch.float32, grid, Postponed(tmp_path / "mark")
    )
    assert sorted(gathered) == sorted(name for shard in plan for name in shard.names)


def test_where_one_has_failed_nobody_writes_on(single_rank: Grid, tmp_path: Path) -> None:
    """Of a large model that would be minutes for nothing. All still gather what the others wait for."""
    stages = [(range(TINY.layers + 3),)]
    table = stage_table(TINY, stages[0])
    plan = shard_plan(TINY, stages, 4, single_rank.layout, 1200, 0)
    weights = {
        name: torch.zeros(sum(piece.shape[0] for piece in pieces), *pieces[0].shape[1:])
        for name, pieces in table.items()
    }
    (tmp_path / plan[0].file).mkdir()  # where a file cannot be written
    ranks = [Postponed(tmp_path / "mark"), Postponed(tmp_path / "mark")]
    for failures, shards in zip(ranks, (plan[:2], plan[2:4]), strict=True):
        for shard in shards:
            written = write_shards(tmp_path, {shard: weights}, table, torch.float32, single_rank, failures)
            assert written == {}
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == ["mark"]
    with pytest.raises(IsADirectoryError):
        ranks[0].settle()
    with pytest.raises(GivenUpError):
        ranks[1].settle()


def test_what_was_gathered_lasts_until_the_next_but_one_is_asked_for(
    single_rank: Grid, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is written meanwhile."""
    layout, stages = Layout(2, 1, 1), [(range(TINY.layers + 3),)]
    shard = shard_plan(TINY, stages, 4, layout)[0]

    def gather(own: torch.Tensor, slices: list[torch.Tensor], **_: object) -> None:
        for rank, part in enumerate(slices):
            part.copy_(own + 1000 * rank)

    monkeypatch.setattr(hf_export.dist, "gather", gather)
    table = stage_table(TINY, stages[0])
    weights = {
        name: torch.full((sum(piece.slice_shape(2)[0] for piece in pieces), *pieces[0].slice_shape(2)[1:]), i)
        for i, (name, pieces) in enumerate(table.items())
    }
    grid = replace(single_rank, layout=layout, tensor_rank=shard.tensor_rank)
    before: list[tuple[Joined, list[torch.Tensor]]] = []
    count = 0
    for tensor in gathered_tensors({shard: weights}, table, torch.float32, grid):
        for earlier, parts in before[-1:]:
            assert all(map(torch.equal, earlier.parts, parts))
        before.append((tensor, [part.clone() for part in tensor.parts]))
        count += 1
        assert tensor.shape == TINY.tensors()[shard.names[count - 1]]
    assert count == len(shard.names)


@pytest.mark.parametrize("tensor", [2, 3, 4])
def test_rows_that_pad_the_vocabulary_are_zero(tensor: int, tmp_path: Path) -> None:
    weights = {name: torch.randn(size) for name, size in TINY.tensors().items()}
    save_file(weights, tmp_path / "model.safetensors")
    table = {"0.word.weight": stage_table(TINY, [range(1)])["0.word.weight"]}
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
    table = {"0.word.weight": stage_table(wider, [range(1)])["0.word.weight"]}
    parameters = {"0.word.weight": nn.Parameter(torch.zeros(11, 9))}
    with pytest.raises(ValueError, match=r"embed_tokens.weight has shape \(11, 8\).*\(11, 9\)"):
        load_weights(tmp_path, wider, table, parameters, 0, 1)


def test_pickled_weights_are_never_read(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"neither model\.safetensors nor"):
        tensor_files(tmp_path)


OWN, ADDED = 11, 3


def grown_slices(
    folder: Path, shape: ModelShape, tensor: int, fresh: range
) -> tuple[torch.Tensor, torch.Tensor]:
    """Embedding and head as `tensor` ranks hold them together, padding included."""
    table = {
        name: pieces
        for name, pieces in stage_table(shape, [range(shape.layers + 3)]).items()
        if pieces[0].name in ("model.embed_tokens.weight", "lm_head.weight")
    }
    rows = -(-shape.vocab // tensor)
    held: dict[str, list[torch.Tensor]] = {name: [] for name in table}
    for rank in range(tensor):
        parameters = {name: nn.Parameter(torch.full((rows, shape.hidden), float("nan"))) for name in table}
        load_weights(folder, shape, table, parameters, rank, tensor, fresh)
        for name, parameter in parameters.items():
            held[name].append(parameter.detach())
    embedding, *head = (torch.cat(slices) for slices in held.values())
    return embedding, head[0] if head else embedding


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("spare", [0, 2, 3, 6], ids=lambda spare: f"{spare} spare rows")
@pytest.mark.parametrize("tensor", [1, 2, 3, 4, 8])
def test_new_rows_are_the_mean(
    tensor: int, spare: int, tied: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the folder has rows for the added ids, for some of them, or for more than those."""
    monkeypatch.setattr(hf_import, "MEAN_ROWS", 4)  # 4, 4 and an odd 3
    stored = replace(TINY, vocab=OWN + spare, tied=tied)
    weights = {name: torch.randn(size) for name, size in stored.tensors().items()}
    save_file(weights, tmp_path / "model.safetensors")
    shape = replace(stored, vocab=max(stored.vocab, OWN + ADDED))
    slices = grown_slices(tmp_path, shape, tensor, range(OWN, OWN + ADDED))
    head = "model.embed_tokens.weight" if tied else "lm_head.weight"
    for found, name in zip(slices, ("model.embed_tokens.weight", head), strict=True):
        mean = weights[name][:OWN].double().mean(0).float()
        expected = torch.cat([weights[name][:OWN], mean.expand(ADDED, -1), weights[name][OWN + ADDED :]])
        assert torch.equal(found[: shape.vocab], expected)
        assert not found[shape.vocab :].any()


def test_the_mean_has_the_same_bits_for_any_number_of_threads(tmp_path: Path) -> None:
    """torch's own float32 sum over these rows has not."""
    rows = torch.randn(5003, 100, generator=torch.Generator().manual_seed(0))
    save_file({"rows": rows.bfloat16()}, tmp_path / "rows.safetensors")
    found: list[torch.Tensor] = []
    before = torch.get_num_threads()
    for threads in (1, 2, 3, 16):
        torch.set_num_threads(threads)
        with safe_open(tmp_path / "rows.safetensors", framework="pt") as file:
            found.append(mean_row(file.get_slice("rows"), 5001))
    torch.set_num_threads(before)
    assert all(torch.equal(one, found[0]) for one in found)
    assert found[0].dtype is torch.float32
    exact = rows.bfloat16()[:5001].double().mean(0)
    torch.testing.assert_close(found[0], exact.float(), rtol=1e-6, atol=0.0)


@pytest.mark.parametrize("rows", [OWN - 1, OWN + ADDED + 1])
def test_rows_that_are_neither_stored_nor_new_are_refused(rows: int, tmp_path: Path) -> None:
    weights = {name: torch.zeros(size) for name, size in replace(TINY, vocab=rows).tensors().items()}
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(ConfigError, match=rf"embed_tokens.weight has shape \({rows}, 8\)"):
        grown_slices(tmp_path, replace(TINY, vocab=OWN + ADDED), 1, range(OWN, OWN + ADDED))


def test_a_checkpoint_has_the_tokens_that_its_model_lacked(tmp_path: Path) -> None:
    model, checkpoint = tmp_path / "model", tmp_path / "checkpoint"
    shutil.copytree(Path(__file__).parents[2] / "configs/demo/tokenizer", model)
    (model / "config.json").write_text(json.dumps(SHAPES["tiny"].hf_config()))
    config = Config(model=ModelConfig(path=str(model)), data=DataConfig(template="chatglm3"))
    builder = open_builder(config)
    assert fresh_ids(builder) == range(1201, 1205)
    checkpoint.mkdir()
    write_bundle(model, checkpoint, builder.template, builder.encoder, vocab=1205, dtype="float32")
    of_checkpoint = open_builder(replace(config, model=ModelConfig(path=str(checkpoint))))
    assert len(fresh_ids(of_checkpoint)) == 0
