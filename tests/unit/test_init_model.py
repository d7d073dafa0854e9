"""init-model's folder against transformers and SentencePiece, which read it as any other."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, AutoTokenizer

from configs.errors import ConfigError
from configs.shapes import SHAPES, ModelShape
from launch import init_model as module
from launch.init_model import init_model, main, random_tensor, shards

LLAMA2_TOKENIZER = Path(__file__).resolve().parents[2].parent / "shared/data/llama2_tokenizer/tokenizer.model"
GB = 10**9


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tokenizer.json of 300 ids, the last of them far from the others."""
    folder = tmp_path_factory.mktemp("tokenizer")
    words = {"<unk>": 0, "<s>": 1, "</s>": 2, **{chr(i): i for i in range(32, 127)}, "far": 299}
    tokenizer = Tokenizer(models.BPE(words, [], unk_token="<unk>"))
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "notes.txt").write_text("no part of a tokenizer")
    return folder


@pytest.fixture(scope="session")
def folder(tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("models") / "tiny"
    assert main([str(out), "--shape", "tiny", "--tokenizer", str(tokenizer), "--seed", "3"]) == 0
    return out


def test_files(folder: Path, tokenizer: Path) -> None:
    names = {"config.json", "generation_config.json", "model.safetensors"}
    assert {file.name for file in folder.iterdir()} == names | {"tokenizer.json", "tokenizer_config.json"}
    assert (folder / "tokenizer.json").read_bytes() == (tokenizer / "tokenizer.json").read_bytes()
    assert ModelShape.from_folder(folder) == replace(SHAPES["tiny"], vocab=300)


def test_transformers_loads_it(folder: Path) -> None:
    loaded: Any = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    model, report = loaded
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert type(model).__name__ == "LlamaForCausalLM"
    config = model.config
    assert (config.vocab_size, config.hidden_size, config.num_key_value_heads) == (300, 128, 4)
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (1, 2, None)
    assert model.generation_config.eos_token_id == 2
    assert model.dtype == torch.float32

    tokens = AutoTokenizer.from_pretrained(folder)("hello", return_tensors="pt").input_ids
    with torch.no_grad():
        logits = model(tokens).logits
    assert logits.shape == (1, 5, 300)
    # Random weights know nothing: the loss is that of a guess among 300, the spread of logits being small.
    loss = torch.nn.functional.cross_entropy(logits[0].float(), torch.arange(5))
    assert abs(float(loss) - torch.log(torch.tensor(300.0))) < 0.2

    weights = load_file(folder / "model.safetensors")
    for name, weight in model.named_parameters():
        assert torch.equal(weight, weights[name])


def test_weights_have_their_distribution(folder: Path) -> None:
    for name, weight in load_file(folder / "model.safetensors").items():
        if "norm" in name:
            assert torch.equal(weight, torch.ones(128))
        else:
            error = 5 * 0.02 / weight.numel() ** 0.5  # five standard errors of the mean
            assert abs(weight.mean()) < error
            assert abs(weight.std() - 0.02) < error


def test_weights_depend_on_seed_and_name_alone(folder: Path, tokenizer: Path, tmp_path: Path) -> None:
    whole = load_file(folder / "model.safetensors")
    init_model(tmp_path / "again", "tiny", tokenizer, 3, "float32", max_shard_bytes=300_000)
    index = json.loads((tmp_path / "again/model.safetensors.index.json").read_text())
    files = sorted({file.name for file in (tmp_path / "again").glob("*.safetensors")})
    assert len(files) > 3
    assert files == [f"model-{i + 1:05d}-of-{len(files):05d}.safetensors" for i in range(len(files))]
    parts = {name: load_file(tmp_path / "again" / file)[name] for name, file in index["weight_map"].items()}
    assert parts.keys() == whole.keys()
    assert all(torch.equal(parts[name], whole[name]) for name in whole)
    assert index["metadata"]["total_size"] == sum(4 * weight.numel() for weight in whole.values())
    sharded = AutoModelForCausalLM.from_pretrained(tmp_path / "again")
    assert torch.equal(sharded.lm_head.weight, whole["lm_head.weight"])

    name, size = "model.layers.0.mlp.up_proj.weight", (352, 128)
    assert torch.equal(random_tensor(name, size, 3, torch.float32), whole[name])
    assert not torch.equal(random_tensor(name, size, 4, torch.float32), whole[name])
    assert not torch.equal(whole[name], whole["model.layers.0.mlp.gate_proj.weight"])


def test_bfloat16_is_float32_rounded(folder: Path, tokenizer: Path, tmp_path: Path) -> None:
    init_model(tmp_path / "half", "tiny", tokenizer, 3, "bfloat16", GB)
    rounded = load_file(tmp_path / "half/model.safetensors")
    for name, weight in load_file(folder / "model.safetensors").items():
        assert torch.equal(rounded[name], weight.to(torch.bfloat16))
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "half").dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["llama2-7b", "llama2-70b"])
def test_large_shapes_are_cut_into_files_that_fit(name: str) -> None:
    shape = SHAPES[name]
    files = shards(shape, "bfloat16", 5 * GB)
    sizes = [2 * sum(map(prod, file.values())) for file in files]
    assert max(sizes) <= 5 * GB
    assert sum(sizes) == 2 * shape.parameters()
    assert [tensor for file in files for tensor in file] == list(shape.tensors())
    assert all(this + following > 5 * GB for this, following in pairwise(sizes))


def test_large_vocabulary_grows_a_named_shape(
    tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = replace(SHAPES["tiny"], vocab=200)
    monkeypatch.setitem(module.SHAPES, "small", small)
    assert main([str(tmp_path / "out"), "--shape", "small", "--tokenizer", str(tokenizer)]) == 0
    assert "grown from 200 to 300" in capsys.readouterr().err
    monkeypatch.setitem(module.SHAPES, "small", replace(small, vocab=400))
    assert init_model(tmp_path / "wide", "small", tokenizer, 0, "float32", GB).vocab == 400


def test_existing_folder_is_left_alone(tokenizer: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/kept").write_text("")
    with pytest.raises(ConfigError, match=r"full: exists and is not empty; choose"):
        init_model(tmp_path / "full", "tiny", tokenizer, 0, "float32", GB)
    assert os.listdir(tmp_path / "full") == ["kept"]
    (tmp_path / "empty").mkdir()
    init_model(tmp_path / "empty", "tiny", tokenizer, 0, "float32", GB)
    assert (tmp_path / "empty/model.safetensors").is_file()


def test_failure_leaves_nothing(tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(ConfigError, match="--tokenizer="):
        init_model(tmp_path / "out", "tiny", tmp_path / "absent", 0, "float32", GB)
    monkeypatch.setattr(module, "random_tensor", full_disk)
    (tmp_path / ".out.partial").mkdir()  # left by a run that was killed
    with pytest.raises(OSError, match="No space"):
        init_model(tmp_path / "out", "tiny", tokenizer, 0, "float32", GB)
    assert os.listdir(tmp_path) == []


TEXTS = ["Hi there", "a\nb\n\nc", "[INST] <<SYS>>\nBe short.\n<</SYS>>", "naïve 日本 🙂 x"]


@pytest.fixture(scope="session")
def trained_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small SentencePiece model with Llama's settings, trained here."""
    folder = tmp_path_factory.mktemp("sentencepiece")
    (folder / "text").write_text("the small cat says hello to the other small cat\n" * 20)
    SentencePieceTrainer.train(
        input=str(folder / "text"),
        model_prefix=str(folder / "tokenizer"),
        model_type="bpe",
        vocab_size=300,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    return folder / "tokenizer.model"


def test_lone_sentencepiece_model(trained_model: Path, tmp_path: Path) -> None:
    shape = init_model(tmp_path / "out", "tiny", trained_model, 0, "float32", GB)
    peer = SentencePieceProcessor(model_file=str(trained_model))
    assert shape.vocab == peer.get_piece_size()
    assert (tmp_path / "out/tokenizer.model").read_bytes() == trained_model.read_bytes()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (peer.bos_id(), peer.eos_id())
    for text in ("the small cat", "hello other\ncat, é"):
        assert tokenizer(text).input_ids == [peer.bos_id(), *peer.encode(text)]


@pytest.mark.skipif(not LLAMA2_TOKENIZER.is_file(), reason="the Llama 2 tokenizer is not there")
@pytest.mark.parametrize("given", [LLAMA2_TOKENIZER, LLAMA2_TOKENIZER.parent], ids=["file", "folder"])
def test_llama2_tokenizer(given: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shape = init_model(out, "tiny", given, 0, "float32", GB)
    assert (shape.vocab, ModelShape.from_folder(out).vocab) == (32000, 32000)
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, None)
    peer = SentencePieceProcessor(model_file=str(LLAMA2_TOKENIZER))
    for text in TEXTS:
        assert tokenizer(text).input_ids == [1, *peer.encode(text)]


@pytest.mark.skipif(not LLAMA2_TOKENIZER.is_file(), reason="the Llama 2 tokenizer is not there")
def test_llama2_tokenizer_on_runs_of_spaces(tmp_path: Path) -> None:
    init_model(tmp_path / "out", "tiny", LLAMA2_TOKENIZER, 0, "float32", GB)
    assert AutoTokenizer.from_pretrained(tmp_path / "out")("Hi  Hello").input_ids == [1, 6324, 29871, 15043]
