"""What is written beside trained weights: files that make a model folder, and every stop where turns end."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from found_tokenizers import DEMO, FOUND, LEGACY, NAMES, Found, serve, serve_one
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LlamaConfig, LlamaForCausalLM

from configs.shapes import SHAPES
from tokenization.bundle import generation_config
from tokenization.templates import TEMPLATES, open_template


def read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", TEMPLATES)
def test_files(name: str, tmp_path: Path) -> None:
    served = serve_one(
        Found(DEMO, LEGACY | {"tokenizer_class": "LlamaTokenizer", "model_max_length": 77}, hub=True),
        name,
        tmp_path,
        special_tokens_map=NAMES,
        added_tokens={"<pad>": 7},
        generation_config={"temperature": 0.6, "do_sample": True, "eos_token_id": 2},
    )
    assert {file.name for file in served.out.iterdir()} == {
        *("config.json", "generation_config.json", "chat_template.jinja"),
        *("tokenizer.json", "tokenizer_config.json"),
    }
    assert (served.out / "chat_template.jinja").read_text() == TEMPLATES[name].chat_template
    assert served.tokenizer.chat_template == TEMPLATES[name].chat_template
    written = read(served.out / "tokenizer_config.json")
    added = {
        "llama2": [],
        "chatglm3": ["system", "user", "assistant", "observation"],
        "chatml": ["im_start", "im_end"],
    }
    tokens = ["<unk>", "<s>", "</s>", *(f"<|{token}|>" for token in added[name])]
    ids = [0, 1, 2, *range(1201, 1201 + len(added[name]))]
    flags = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False, "special": True}
    decoder = {str(id): {"content": token, **flags} for id, token in zip(ids, tokens, strict=True)}
    assert written == {
        **NAMES,
        "unk_token": LEGACY["unk_token"],
        "add_bos_token": True,
        "add_eos_token": False,
        "added_tokens_decoder": decoder,
        "legacy": False,
        "model_max_length": 77,
        "tokenizer_class": "LlamaTokenizer",
    }
    assert [(t["id"], t["content"]) for t in read(served.out / "tokenizer.json")["added_tokens"]] == list(
        zip(ids, tokens, strict=True)
    )
    stops = {"llama2": 2, "chatglm3": [2, 1202, 1204], "chatml": [2, 1202]}[name]
    assert read(served.out / "generation_config.json") == {
        "temperature": 0.6,
        "do_sample": True,
        "eos_token_id": stops,
    }
    config = SHAPES["tiny"].hf_config() | {"vocab_size": 1201 + len(added[name]), "dtype": "bfloat16"}
    assert read(served.out / "config.json") == config


def test_torch_dtype_of_older_configs(tmp_path: Path) -> None:
    config = {"model_type": "llama", "torch_dtype": "float16", "vocab_size": 9, "kept": [1, 2]}
    served = serve_one(Found(DEMO), "llama2", tmp_path, config=config)
    written = {"model_type": "llama", "torch_dtype": "bfloat16", "vocab_size": 1201, "kept": [1, 2]}
    assert read(served.out / "config.json") == written


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("found", ["demo", "bytes, GPT2Tokenizer"])
def test_a_bundle_is_a_model_folder_again(found: str, name: str, tmp_path: Path) -> None:
    """Written a second time, from what was written first, it is the same."""
    first, again = serve_one(FOUND[found], name, tmp_path), tmp_path / "again"
    serve(first.out, name, again)
    files = sorted(file.name for file in first.out.iterdir())
    assert files == sorted(file.name for file in again.iterdir())
    assert [(again / f).read_bytes() for f in files] == [(first.out / f).read_bytes() for f in files]


def test_another_template_adds_its_own(tmp_path: Path) -> None:
    first = serve_one(Found(DEMO), "chatml", tmp_path)
    second = serve(first.out, "chatglm3", tmp_path / "second")
    assert second.ids("<|im_start|><|im_end|><|system|>") == [1201, 1202, 1203]
    assert read(second.out / "generation_config.json")["eos_token_id"] == [2, 1204, 1206, 1202]


OWN = (
    "{% for m in messages %}{{ bos_token + m.role + ': ' + m.content + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ bos_token + 'assistant: ' }}{% endif %}"
)


def test_the_folders_own_template_keeps_the_folders_own_tokenizer(tmp_path: Path) -> None:
    found = Found(DEMO, LEGACY | {"tokenizer_class": "LlamaTokenizer", "chat_template": OWN}, hub=True)
    served = serve_one(found, "model", tmp_path)
    model = tmp_path / "model"
    assert (served.out / "tokenizer.json").read_bytes() == (model / "tokenizer.json").read_bytes()
    assert (served.out / "chat_template.jinja").read_text() == OWN
    settings_before = read(model / "tokenizer_config.json")
    settings_before.pop("chat_template")
    assert read(served.out / "tokenizer_config.json") == settings_before
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]
    theirs = AutoTokenizer.from_pretrained(model).apply_chat_template(messages)
    assert served.tokenizer.apply_chat_template(messages) == theirs


# Stops.


@pytest.mark.parametrize(
    ("name", "own", "expected"),
    [
        ("llama2", None, 2),
        ("llama2", 2, 2),
        ("llama2", [2, 9], [2, 9]),
        ("chatml", None, [2, 1202]),
        ("chatml", 2, [2, 1202]),
        ("chatml", [9, 2], [2, 1202, 9]),
        ("chatglm3", [1203, 1202, 5], [2, 1202, 1204, 5]),  # <|assistant|> parts messages inside a turn
    ],
)
def test_every_stop_is_named(name: str, own: Any, expected: Any, tmp_path: Path) -> None:
    model = Found(DEMO).write(tmp_path / "model")
    values = {"top_p": 0.9, "_from_model_config": True} | ({} if own is None else {"eos_token_id": own})
    (model / "generation_config.json").write_text(json.dumps(values))
    template, encoder = open_template(name, model)
    assert generation_config(model, template, encoder) == {"top_p": 0.9, "eos_token_id": expected}


def test_without_a_generation_config_one_is_made(tmp_path: Path) -> None:
    template, encoder = open_template("chatml", Found(DEMO).write(tmp_path / "model"))
    made = generation_config(tmp_path / "model", template, encoder)
    assert made == {"bos_token_id": 1, "eos_token_id": [2, 1202]}


@pytest.mark.parametrize(("text", "fault"), [("{", "not valid JSON"), ("[]", "does not hold an object")])
def test_a_broken_generation_config_is_refused(text: str, fault: str, tmp_path: Path) -> None:
    model = Found(DEMO).write(tmp_path / "model")
    (model / "generation_config.json").write_text(text)
    with pytest.raises(ValueError, match=rf"generation_config\.json.*{fault}.*; copy it again in full"):
        generation_config(model, *open_template("llama2", model))


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "token", "stops"),
    [
        ("llama2", "</s>", True),
        ("llama2", "[", False),
        ("chatglm3", "</s>", True),
        ("chatglm3", "<|user|>", True),
        ("chatglm3", "<|observation|>", True),
        ("chatglm3", "<|assistant|>", False),
        ("chatml", "<|im_end|>", True),
        ("chatml", "<|im_start|>", False),
    ],
)
def test_generation_stops_there(name: str, token: str, stops: bool, tmp_path: Path) -> None:
    """A model whose head can only say `token`."""
    shape = replace(SHAPES["tiny"], hidden=8, intermediate=8, layers=1, heads=1, kv_heads=1, head_dim=8)
    generation = {"_from_model_config": True, "eos_token_id": 2}
    found = serve_one(Found(DEMO), name, tmp_path, generation_config=generation, config=shape.hf_config())
    model = LlamaForCausalLM(LlamaConfig.from_pretrained(found.out))
    id = found.tokenizer.convert_tokens_to_ids(token)
    for parameter in model.parameters():
        parameter.fill_(0.0)
    model.model.embed_tokens.weight.fill_(1.0)
    model.model.norm.weight.fill_(1.0)
    model.lm_head.weight[id] = 1.0
    model.save_pretrained(tmp_path / "weights")
    shutil.copyfile(tmp_path / "weights" / "model.safetensors", found.out / "model.safetensors")
    loaded: Any = AutoModelForCausalLM.from_pretrained(found.out)
    assert GenerationConfig.from_pretrained(found.out).eos_token_id == loaded.generation_config.eos_token_id
    prompt = found.tokenizer("hi", return_tensors="pt")
    said = loaded.generate(**prompt, max_new_tokens=4, do_sample=False, pad_token_id=0)[
        0, prompt.input_ids.shape[1] :
    ]
    assert said.tolist() == [id] * (1 if stops else 4)
