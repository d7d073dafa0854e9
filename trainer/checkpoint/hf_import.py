"""A Hugging Face folder into this rank's parameters; each rank reads only its slices."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from torch import nn

from configs.errors import ConfigError
from configs.shapes import ModelShape
from trainer.model.names import Piece, Table, check_names, row_offsets


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


@torch.no_grad()
def load_weights(
    folder: Path,
    shape: ModelShape,
    table: Table,
    parameters: Mapping[str, nn.Parameter],
    tensor_rank: int,
    tensor: int,
) -> None:
    """Fill `parameters` (names as in `table`) with this tensor rank's slices, in the parameters' dtype.

    Rows that pad the vocabulary to the tensor size are zero. Raises ConfigError for missing or misshapen
    tensors.
    """
    files = tensor_files(folder)
    check_names(files, shape)
    for name, pieces in table.items():
        parameter = parameters[name]
        for piece, offset in zip(pieces, row_offsets(pieces, tensor), strict=True):
            rows = piece.slice_shape(tensor)[0]
            fill_slice(parameter[offset : offset + rows], files[piece.name], piece, tensor_rank, tensor)


def fill_slice(target: torch.Tensor, file: Path, piece: Piece, tensor_rank: int, tensor: int) -> None:
    """Copy one piece's slice from a file into `target` [slice_shape], zeros where it is padding."""
    start, stop = piece.bounds(tensor_rank, tensor)
    with safe_open(file, framework="pt") as tensors:
        stored = tensors.get_slice(piece.name)
        if tuple(stored.get_shape()) != piece.shape:
            raise ConfigError(
                f"{file}: {piece.name} has shape {tuple(stored.get_shape())}, config.json asks for {piece.shape}: "
                "weights and config are of different models"
            )
        if piece.split == "columns":
            target.copy_(stored[:, start:stop])
        else:
            target[: stop - start].copy_(stored[start:stop])
            target[stop - start :].zero_()
