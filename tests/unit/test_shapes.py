"""Model sizes: against transformers, published counts, and config.json as its versions write it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from configs.errors import ConfigError
from configs.shapes import SHAPES, ModelShape

LLAMA_2_7B = {  # as the model's first release has it
    "architectures": ["LlamaForCausalLM"],
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "max_position_embeddings": 4096,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 32,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "vocab_size": 32000,
}


def folder(path: Path, **changes: Any) -> Path:
    (path / "config.json").write_text(json.dumps(LLAMA_2_7B | changes))
    return path


def test_older_config(tmp_path: Path) -> None:
    assert ModelShape.from_folder(folder(tmp_path)) == SHAPES["llama2-7b"]


@pytest.mark.parametrize(
    ("changes", "rope"),
    [
        ({}, {"rope_type": "default", "rope_theta": 10000.0}),
        ({"rope_theta": 5e5}, {"rope_type": "default", "rope_theta": 5e5}),
        (
            {"rope_scaling": {"type": "linear", "factor": 2.0}},
            {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0},
        ),
        (
            {"rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", "factor": 8.0}},
            {"rope_type": "llama3", "factor": 8.0, "rope_theta": 5e5},
        ),
        (
            {"rope_parameters": {"rope_type": "default", "rope_theta": 3.0}},
            {"rope_type": "default", "rope_theta": 3.0},
        ),
        (  # as transformers reads what somebody has added to a newer config
            {
                "rope_parameters": {"rope_type": "default", "rope_theta": 3.0},
                "rope_scaling": {"type": "linear", "factor": 2.0},
            },
            {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0},
        ),
    ],
)
def test_rope_of_older_and_newer_configs(tmp_path: Path, changes: Any, rope: dict[str, Any]) -> None:
    assert ModelShape.from_folder(folder(tmp_path, **changes)).rope == rope


@pytest.mark.parametrize(("name", "count"), [("7b", 6738415616), ("13b", 13015864320), ("70b", 68976648192)])
def test_published_parameter_counts(name: str, count: int) -> None:
    assert SHAPES[f"llama2-{name}"].parameters() == count


def test_defaults_where_keys_are_absent(tmp_path: Path) -> None:
    path = folder(tmp_path, num_key_value_heads=None, head_dim=None, tie_word_embeddings=True)
    shape = ModelShape.from_folder(path)
    assert (shape.kv_heads, shape.head_dim, shape.tied) == (32, 128, True)


SMALL = [
    replace(SHAPES["tiny"], vocab=321),
    replace(SHAPES["tiny"], vocab=50, tied=True, head_dim=24, layers=2, kv_heads=1),
]
STRETCHED = replace(SMALL[0], rope={"rope_type": "linear", "rope_theta": 9.0, "factor": 2.0})


@pytest.mark.parametrize("shape", SMALL)
def test_tensors_are_those_of_transformers(shape: ModelShape) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**shape.hf_config()))
    assert {name: tuple(p.shape) for name, p in model.named_parameters()} == shape.tensors()
    assert shape.parameters() == sum(p.numel() for p in model.parameters())
    assert shape.layer_parameters() == sum(p.numel() for p in model.model.layers[0].parameters())


@pytest.mark.parametrize("shape", [*SMALL, STRETCHED])
def test_config_is_what_transformers_writes(shape: ModelShape, tmp_path: Path) -> None:
    import torch
    from transformers import AutoConfig, LlamaConfig

    (tmp_path / "config.json").write_text(json.dumps(shape.hf_config(bos=1, eos=2, pad=0, dtype="float32")))
    config = AutoConfig.from_pretrained(tmp_path)
    assert type(config) is LlamaConfig
    assert config.dtype == torch.float32
    assert ModelShape.from_folder(tmp_path) == shape
    config.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    written.pop("transformers_version")
    assert written == shape.hf_config(bos=1, eos=2, pad=0, dtype="float32")
    assert ModelShape.from_folder(tmp_path) == shape


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model_type": "qwen2"}, 'model_type="qwen2"'),
        ({"model_type": None}, "model_type=null"),
        ({"attention_bias": True}, "attention_bias=true"),
        ({"mlp_bias": True}, "mlp_bias=true"),
        ({"hidden_act": "gelu"}, 'hidden_act="gelu"'),
        ({"quantization_config": {"bits": 4}}, "quantization_config="),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope_type=dynamic"),
        (
            {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}},
            "partial_rotary_factor",
        ),
        ({"hidden_size": None}, "hidden_size=null"),
        ({"vocab_size": "32000"}, 'vocab_size="32000"'),
        ({"num_hidden_layers": 0}, "num_hidden_layers=0"),
        ({"num_key_value_heads": 5}, "5 key-value heads do not divide 32 heads"),
    ],
)
def test_models_that_cannot_be_trained(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ModelShape.from_folder(folder(tmp_path, **changes))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_folders_without_a_config(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such model folder"):
        ModelShape.from_folder(tmp_path / "absent")
    with pytest.raises(ConfigError, match=r"no config\.json"):
        ModelShape.from_folder(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="no JSON"):
        ModelShape.from_folder(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ConfigError, match="no JSON object"):
        ModelShape.from_folder(tmp_path)
