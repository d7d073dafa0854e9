"""`agenttune init-model`: a randomly initialised Hugging Face folder, for demos, tests and dry runs.

Every tensor is drawn from its own generator, seeded by (seed, name): the weights depend neither on the order
in which they are made nor on the size of the shards. One shard is in memory at a time. The folder is written
aside and renamed when it is whole, so that a run which is killed leaves nothing under the name asked for.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.errors import ConfigError
from configs.shapes import SHAPES, ModelShape
from launch.arguments import Parser
from tokenization.tokenizer_files import put_bos, read_tokenizer

if TYPE_CHECKING:
    import torch

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)
_BYTES = {"float32": 4, "bfloat16": 2}
_STANDARD_DEVIATION = 0.02
_DESCRIPTION = "Makes a randomly initialised Hugging Face folder: config, tokenizer and safetensors weights."
_EXAMPLE = "example: agenttune init-model runs/tiny --shape tiny --tokenizer configs/demo/tokenizer --seed 1"


@dataclass(frozen=True)
class TokenizerFacts:
    """What a model's config repeats of its tokenizer: largest id + 1, and the ids of its control tokens."""

    vocab: int
    bos: int | None
    eos: int | None
    pad: int | None


def main(argv: list[str]) -> int:
    parser = Parser("agenttune init-model", description=_DESCRIPTION, epilog=_EXAMPLE)
    add = parser.add_argument
    add("out", type=Path, metavar="OUT", help="the folder to make; it must not exist, or be empty")
    add("--shape", required=True, choices=list(SHAPES), help="sizes of the model")
    add("--tokenizer", required=True, type=Path, help="a tokenizer's folder, or its tokenizer.model")
    add("--seed", type=int, default=0, help="of the weights (default 0)")
    add("--dtype", choices=list(_BYTES), help="default float32 for tiny, bfloat16 for the others")
    add("--max-shard-gb", type=float, default=5.0, metavar="GB", help="largest weight file (default 5)")
    args = parser.parse_args(argv)
    dtype = args.dtype or ("float32" if args.shape == "tiny" else "bfloat16")
    if not args.max_shard_gb > 0:
        raise ConfigError(f"--max-shard-gb={args.max_shard_gb}: must be more than 0; 5 is usual")
    shape = init_model(args.out, args.shape, args.tokenizer, args.seed, dtype, int(args.max_shard_gb * 1e9))
    usual = SHAPES[args.shape].vocab
    if args.shape != "tiny" and shape.vocab != usual:
        print(f"vocabulary grown from {usual} to {shape.vocab}, the tokenizer's size", file=sys.stderr)
    print(f"{args.out}: {args.shape}, {shape.parameters():,} parameters, {dtype}, vocabulary {shape.vocab}")
    return 0


def init_model(
    out: Path, name: str, tokenizer: Path, seed: int, dtype: str, max_shard_bytes: int
) -> ModelShape:
    """Makes `out` from the named shape and returns the shape made: `tiny` has the tokenizer's vocabulary, the
    others their own, grown where the tokenizer needs more.

    Raises ConfigError for an `out` that holds something and for a tokenizer that cannot be read.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out}: exists and is not empty; choose another folder or remove it")
    aside = out.parent / f".{out.name}.partial"
    shutil.rmtree(aside, ignore_errors=True)  # left by a run that was killed
    aside.mkdir(parents=True)
    try:
        facts = _write_tokenizer(tokenizer, aside)
        shape = SHAPES[name]
        shape = replace(shape, vocab=facts.vocab if name == "tiny" else max(shape.vocab, facts.vocab))
        config = shape.hf_config(bos=facts.bos, eos=facts.eos, pad=facts.pad, dtype=dtype)
        ids = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
        _write_json(aside / "config.json", config)
        _write_json(aside / "generation_config.json", {"_from_model_config": True, **ids})
        _write_weights(aside, shape, seed, dtype, max_shard_bytes)
        os.replace(aside, out)  # an empty `out` gives way
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return shape


def shards(shape: ModelShape, dtype: str, max_bytes: int) -> list[dict[str, tuple[int, ...]]]:
    """The tensors (name to shape) of each weight file; one larger than max_bytes has a file of its own."""
    files: list[dict[str, tuple[int, ...]]] = [{}]
    filled = 0
    for name, size in shape.tensors().items():
        bytes_ = prod(size) * _BYTES[dtype]
        if files[-1] and filled + bytes_ > max_bytes:
            files.append({})
            filled = 0
        files[-1][name] = size
        filled += bytes_
    return files


def random_tensor(name: str, size: tuple[int, ...], seed: int, dtype: torch.dtype) -> torch.Tensor:
    """Ones for a norm's weight, else normal(0, 0.02) drawn in float32; depends on (seed, name) alone."""
    import torch

    if len(size) == 1:
        return torch.ones(size, dtype=dtype)
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    return torch.empty(size).normal_(0, _STANDARD_DEVIATION, generator=generator).to(dtype)


def _write_weights(folder: Path, shape: ModelShape, seed: int, dtype: str, max_bytes: int) -> None:
    import torch
    from tqdm import tqdm

    from trainer.checkpoint.tensors import write_tensors

    files = shards(shape, dtype, max_bytes)
    weight_map: dict[str, str] = {}
    total = shape.parameters() * _BYTES[dtype]
    with tqdm(total=total, unit="B", unit_scale=True, desc="weights", disable=None) as progress:

        def drawn(sizes: dict[str, tuple[int, ...]]) -> Iterator[tuple[str, torch.Tensor]]:
            for name, size in sizes.items():
                yield name, random_tensor(name, size, seed, getattr(torch, dtype))
                progress.update(prod(size) * _BYTES[dtype])

        for number, sizes in enumerate(files, start=1):
            part = "" if len(files) == 1 else f"-{number:05d}-of-{len(files):05d}"
            file = f"model{part}.safetensors"
            write_tensors(folder / file, dict(drawn(sizes)))
            weight_map.update(dict.fromkeys(sizes, file))
    if len(files) > 1:
        metadata = {"total_parameters": shape.parameters(), "total_size": total}
        _write_json(folder / "model.safetensors.index.json", {"metadata": metadata, "weight_map": weight_map})


def _write_tokenizer(source: Path, folder: Path) -> TokenizerFacts:
    """A folder's files as they are; a tokenizer.model alone is converted, and copied too."""
    try:
        tokenizer, names = read_tokenizer(source)
    except ValueError as error:
        raise ConfigError(f"--tokenizer={source}: {error}") from error
    if source.is_dir() and (source / "tokenizer.json").is_file():
        for file in TOKENIZER_FILES:
            if (source / file).is_file():
                shutil.copyfile(source / file, folder / file)
    else:
        model = source / "tokenizer.model" if source.is_dir() else source
        put_bos(tokenizer, names.bos)
        tokenizer.save(str(folder / "tokenizer.json"))
        if model.suffix == ".model":
            shutil.copyfile(model, folder / "tokenizer.model")
        settings = {"tokenizer_class": "LlamaTokenizer", "legacy": False, "add_bos_token": True}
        control = {"bos_token": names.bos, "eos_token": names.eos, "pad_token": names.pad}
        _write_json(folder / "tokenizer_config.json", settings | control)
    return TokenizerFacts(
        vocab=max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1,
        bos=tokenizer.token_to_id(names.bos),
        eos=tokenizer.token_to_id(names.eos),
        pad=tokenizer.token_to_id(names.pad) if names.pad else None,
    )


def _write_json(file: Path, value: dict[str, Any]) -> None:
    file.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
