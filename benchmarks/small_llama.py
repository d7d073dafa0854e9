"""A small Llama with random weights and a config that trains it, for benchmarks that take real steps on a CPU."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import LlamaConfig, LlamaForCausalLM

from configs.shapes import ModelShape
from tokenization.encoder import Encoder

DEMO = Path(__file__).parents[1] / "configs" / "demo"
SHAPE = ModelShape(
    vocab=0, hidden=256, intermediate=688, layers=6, heads=4, kv_heads=4, head_dim=64, max_positions=16384
)
"""Llama 2's proportions; the vocabulary is the tokenizer's."""


def demo_files() -> list[Path]:
    return [DEMO / "agent.jsonl", DEMO / "general.jsonl"]


def small_llama(folder: Path, tokenizer: Path, dtype: str = "float32", **changed: Any) -> ModelShape:
    """Writes a Hugging Face folder with random weights of SHAPE and this tokenizer, drawn on torch's default device.

    `changed`: other sizes.
    """
    files = tokenizer.iterdir() if tokenizer.is_dir() else [tokenizer]
    folder.mkdir(parents=True)
    for file in files:
        shutil.copyfile(file, folder / file.name)
    shape = replace(SHAPE, **{"vocab": Encoder.from_folder(folder).vocab_size} | changed)
    torch.manual_seed(1)
    model = LlamaForCausalLM(LlamaConfig(**shape.hf_config(dtype=dtype)))
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    return shape


def write_config(
    folder: Path, files: Sequence[Path], length: int, *, rows: int, lr: float, **settings: dict[str, Any]
) -> Path:
    """`folder/config.yaml` for the model in `folder/model`; `settings`: sections, which are added to."""
    sources = [
        {"name": file.stem, "path": str(file.absolute()), "role": "general" if i else "agent"}
        for i, file in enumerate(files)
    ]
    told: dict[str, Any] = {
        "run": {"output_dir": str(folder / "run"), "seed": 1},
        "model": {"path": str(folder / "model"), "dtype": "float32"},
        "data": {
            "sequence_length": length,
            "sources": sources,
            "cache_dir": str(folder / "cache"),
            "too_long": "truncate",
        },
        "batch": {"rows": rows, "micro_rows": 1},
        "train": {"steps": 1000},
        "optimizer": {"lr": lr, "schedule": "constant", "warmup_ratio": 0.0},
        "wandb": {"mode": "disabled"},
    }
    for section, values in settings.items():
        told[section] = told.get(section, {}) | values
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(told))
    return file
