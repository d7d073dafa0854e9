"""A Hugging Face folder into this rank's parameters; each rank reads only its slices."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from configs.errors import ConfigError
from configs.shapes import ModelShape
from tokenization.builder import SampleBuilder
from trainer.model.names import Piece, Table, check_names, row_offsets
from trainer.watchdog import beat

VOCABULARY = ("model.embed_tokens.weight", "lm_head.weight")
"""Tensors with a row for each id."""
MEAN_ROWS = 1024
"""Rows of them read at a time for their mean: 64 MiB of float64 for a 70B model."""


def tensor_files(folder: Path) -> dict[str, Path]:
    """File of each tensor in a safetensors model folder, sharded or not.

    Raises ConfigError where there is none; pickled weights (pytorch_model.bin) are never read.
    """
    index = folder / "model.safetensors.index.json"
    single = folder / "model.safetensors"
    if index.is_file():
        names = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        return {name: folder / file for name, file in names.items()}
    if single.is_file():
        with safe_open(single, framework="pt") as file:
            return dict.fromkeys(file.keys(), single)
    raise ConfigError(f"{folder} holds no model.safetensors: convert its weights to safetensors first")


def fresh_ids(builder: SampleBuilder) -> range:
    """Ids that the weights a run begins with know nothing of: control tokens that the tokenizer beside them lacks."""
    return range(builder.encoder.own_size, builder.encoder.vocab_size)


@torch.no_grad()
def load_weights(
    folder: Path,
    shape: ModelShape,
    table: Table,
    parameters: Mapping[str, nn.Parameter],
    tensor_rank: int,
    tensor: int,
    fresh: range = range(0),
) -> None:
    """Fill `parameters` (names as in `table`) with this tensor rank's slices, in the parameters' dtype.

    `fresh` ids are new to the vocabulary, above all others that it has: their rows of embedding and head are the mean
    of the rows below them, whether the files have rows for them or not. Rows that pad the vocabulary to the tensor
    size are zero. Raises ConfigError for missing or misshapen tensors.
    """
    files = tensor_files(folder)
    check_names(files, shape)
    for name, pieces in table.items():
        beat()
        parameter = parameters[name]
        for piece, offset in zip(pieces, row_offsets(pieces, tensor), strict=True):
            rows = piece.slice_shape(tensor)[0]
            new = fresh if piece.name in VOCABULARY else range(0)
            fill_slice(parameter[offset : offset + rows], files[piece.name], piece, tensor_rank, tensor, new)


def fill_slice(
    target: torch.Tensor, file: Path, piece: Piece, tensor_rank: int, tensor: int, fresh: range
) -> None:
    """Copy one piece's slice from a file into `target` [slice_shape], means where it is fresh, zeros where it is
    padding."""
    start, stop = piece.bounds(tensor_rank, tensor)
    with safe_open(file, framework="pt") as tensors:
        stored = tensors.get_slice(piece.name)
        found = tuple(stored.get_shape())
        grown = fresh.stop == piece.shape[0] and found[0] in fresh and found[1:] == piece.shape[1:]
        if found != piece.shape and not grown:
            raise ConfigError(
                f"{file}: {piece.name} has shape {found}, config.json asks for {piece.shape}: "
                "weights and config are of different models"
            )
        if piece.split == "columns":
            target.copy_(stored[:, start:stop])
            return
        held = stored[start:stop]  # fewer rows where the rest is fresh
        target[: len(held)].copy_(held)
        target[stop - start :].zero_()
        new = range(max(start, fresh.start), min(stop, fresh.stop))
        if new:
            target[new.start - start : new.stop - start].copy_(mean_row(stored, fresh.start))


def mean_row(stored: Any, rows: int) -> torch.Tensor:
    """Mean of the first `rows` rows of a safetensors slice, float32 [hidden], the same bits on every rank.

    Few rows are in memory at a time. They are added two by two, because torch's own sum may change with the number of
    threads, and in float64, which rounds to float32 once.
    """
    total = torch.zeros(stored.get_shape()[1], dtype=torch.float64)
    for first in range(0, rows, MEAN_ROWS):
        block = stored[first : min(first + MEAN_ROWS, rows)].double()  # [rows, hidden]
        while len(block) > 1:
            odd = block[len(block) - len(block) % 2 :].sum(0)  # the last of an odd number, else zeros
            half = len(block) // 2
            block = block[:half] + block[half : 2 * half]
            block[0] += odd
        total += block[0]
    return (total / rows).float()
