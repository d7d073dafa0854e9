"""Small models made by transformers, and the configs of runs that train them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from launch.init_model import init_model

DEMO = Path(__file__).resolve().parents[2] / "configs/demo"
SIZES: dict[str, Any] = {
    "vocab_size": 1201,  # the demo tokenizer's: a prime, so that every tensor size has to pad
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 512,
    "initializer_range": 0.1,  # large enough for attention to prefer some tokens to others
    "pad_token_id": None,
}


def write_model(
    folder: Path,
    *,
    tokenizer: Path = DEMO / "tokenizer",
    dtype: torch.dtype = torch.float32,
    shard: str = "5GB",
    **changes: Any,
) -> Path:
    """A randomly initialised Hugging Face folder with a tokenizer's files; `changes` as in LlamaConfig."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SIZES | changes))
    for name, parameter in model.named_parameters():
        if name.endswith("norm.weight"):
            torch.nn.init.uniform_(parameter, 0.5, 1.5)  # at 1 a norm's weight could go missing unseen
    model.type(dtype).save_pretrained(folder, max_shard_size=shard)
    for file in tokenizer.iterdir():
        shutil.copyfile(file, folder / file.name)
    return folder


def write_config(file: Path, model: Path, /, **sections: dict[str, Any]) -> Path:
    """A YAML config that trains `model` on the demo data; `sections` change its settings."""
    settings = {
        "run": {"output_dir": str(file.with_suffix(""))},
        "model": {"path": str(model), "dtype": "float32"},
        "data": {
            "sequence_length": 256,
            "eta": 0.5,
            "sources": [
                {"name": "agent", "path": str(DEMO / "agent.jsonl"), "role": "agent"},
                {"name": "general", "path": str(DEMO / "general.jsonl"), "role": "general"},
            ],
        },
        "batch": {"rows": 4, "micro_rows": 1},
        "train": {"steps": 5},
        "optimizer": {"lr": 5e-5, "schedule": "constant", "warmup_ratio": 0.0},
        "wandb": {"mode": "disabled"},
    }
    OmegaConf.save(OmegaConf.merge(settings, sections), file)
    return file


def layout(
    tensor: int = 1,
    pipeline: int = 1,
    data: int = 1,
    *,
    sequence: bool = False,
    recompute: str = "none",
    schedule: str = "1f1b",
) -> list[str]:
    """Overrides of a config that lay the run out so."""
    return [
        f"parallel.tensor={tensor}",
        f"parallel.pipeline={pipeline}",
        f"parallel.data={data}",
        f"parallel.sequence={str(sequence).lower()}",
        f"parallel.recompute={recompute}",
        f"parallel.schedule={schedule}",
    ]


def write_real_model(folder: Path, tokenizer: Path) -> Path:
    """`init-model --shape tiny` with the tokenizer given, and norms that matter: 4 layers, 8 heads, 4 KV heads."""
    init_model(folder, "tiny", tokenizer, 0, "float32", 5_000_000_000)
    generator = torch.Generator().manual_seed(1)
    weights = {
        name: torch.empty_like(weight).uniform_(0.5, 1.5, generator=generator)
        if weight.ndim == 1
        else 4 * weight
        for name, weight in load_file(folder / "model.safetensors").items()
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a Hugging Face folder; a name in two files is an error."""
    weights: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("model*.safetensors")):
        held = load_file(file)
        assert not weights.keys() & held.keys(), f"{file} repeats tensors"
        weights |= held
    return weights
