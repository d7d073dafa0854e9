"""A Hugging Face folder into this rank's parameters; each rank reads only its slices."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from configs.errors import ConfigError
from configs.shapes import ModelShape
from configs.weights import tensor_files
from tokenization.builder import SampleBuilder
from trainer.model.names import Piece, Table, check_names, row_offsets
from trainer.watchdog import beat

VOCABULARY = ("model.embed_tokens.weight", "lm_head.weight")
"""Tensors with a row for each id."""
MAPPED = 32 << 20
"""Numbers read of a file before it is opened anew."""
MEAN_ROWS = 1024
"""Rows of them read at a time for their mean: 64 MiB of float64 for a 70B model."""


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
    with ExitStack() as stack:
        mapped = _Mapped(stack)
        for name, pieces in table.items():
            beat()
            parameter = parameters[name]
            for piece, offset in zip(pieces, row_offsets(pieces, tensor), strict=True):
                rows = piece.slice_shape(tensor)[0]
                new = fresh if piece.name in VOCABULARY else range(0)
                stored = mapped.get_slice(files[piece.name], piece, tensor, new)
                fill_slice(parameter[offset : offset + rows], stored, piece, tensor_rank, tensor, new)


class _Mapped:
    """The weight file that is being read. To open one takes a millisecond, and what was read of it counts as this
    process's memory until it is closed: so it is opened anew now and then."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._path: Path | None = None
        self._file: Any = None
        self._read = 0

    def get_slice(self, path: Path, piece: Piece, tensor: int, fresh: range) -> Any:
        """Raises ConfigError where the tensor has another shape than the model."""
        if path != self._path or self._read > MAPPED:
            self._stack.close()
            self._file = self._stack.enter_context(safe_open(path, framework="pt"))
            self._path, self._read = path, 0
        self._read += prod(piece.shape if piece.split == "columns" else piece.slice_shape(tensor))
        stored = self._file.get_slice(piece.name)
        found = tuple(stored.get_shape())
        grown = fresh.stop == piece.shape[0] and found[0] in fresh and found[1:] == piece.shape[1:]
        if found != piece.shape and not grown:
            raise ConfigError(
                f"{path}: {piece.name} has shape {found}, config.json asks for {piece.shape}: "
                "weights and config are of different models"
            )
        return stored


def fill_slice(
    target: torch.Tensor, stored: Any, piece: Piece, tensor_rank: int, tensor: int, fresh: range
) -> None:
    """Copy one piece's slice out of a stored tensor into `target` [slice_shape], means where it is fresh, zeros where
    it is padding."""
    start, stop = piece.bounds(tensor_rank, tensor)
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
