"""Which file of a training state holds which part of a tensor, and any part put together from them.

A file belongs to one rank of the layout that saved. Its parts are cut where that layout's tensor ranks divide a
Hugging Face tensor, so another layout finds its own slice in one or several of them, and reads no more than that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from configs.errors import ConfigError
from configs.shapes import ModelShape
from trainer.checkpoint.shards import Shard
from trainer.model.names import Piece, owned_table, row_offsets
from trainer.stages import Ranges

KINDS = ("master", "exp_avg", "exp_avg_sq")
"""What is kept of each tensor, in float32: the weight and AdamW's moments."""


@dataclass(frozen=True)
class Part:
    """Rows `first` to `last` - 1 of a Hugging Face tensor (columns, where tensor ranks divide those), in `file`."""

    first: int
    last: int
    file: str


Parts = dict[str, tuple[Part, ...]]
"""Of each Hugging Face tensor, in order, without gaps and without the rows that pad a vocabulary."""


def state_file(shard: Shard, tensor_rank: int) -> str:
    """In training_state/: a tensor rank's parts of a shard's state."""
    return f"{shard.file.removesuffix('.safetensors')}-tensor-{tensor_rank:02d}.safetensors"


def saved_parts(shape: ModelShape, stages: Sequence[Ranges], tensor: int, plan: Sequence[Shard]) -> Parts:
    """What so many tensor ranks write."""
    found: Parts = {}
    for shard in plan:
        table = owned_table(shape, stages, shard.stage)
        for piece in (piece for name in shard.parameters for piece in table[name]):
            cuts = (piece.bounds(rank, tensor) for rank in range(tensor))
            files = (state_file(shard, rank) for rank in range(tensor))
            parts = [Part(first, last, file) for (first, last), file in zip(cuts, files, strict=True)]
            held = parts[:1] if piece.split == "none" else parts
            found[piece.name] = tuple(part for part in held if part.first < part.last)
    return found


def cut_parts(
    parameter: torch.Tensor, pieces: Sequence[Piece], tensor_rank: int, tensor: int
) -> Iterator[tuple[str, torch.Tensor]]:
    """What a tensor rank writes of a parameter that it holds, or of a moment of it: by Hugging Face name, its part.

    The padding is left away, and of what all tensor ranks hold the first writes all.
    """
    for piece, offset in zip(pieces, row_offsets(pieces, tensor), strict=True):
        start, stop = piece.bounds(tensor_rank, tensor)
        if start == stop or (piece.split == "none" and tensor_rank != 0):
            continue
        held = parameter.narrow(0, offset, piece.slice_shape(tensor)[0])
        yield piece.name, held.narrow(_along(piece), 0, stop - start).contiguous()


class PartReader(ExitStack):
    """Slices of tensors out of a folder of files, each opened once, when it is first needed."""

    def __init__(self, folder: Path, parts: Mapping[str, Sequence[Part]]) -> None:
        super().__init__()
        self._folder = folder
        self._parts = parts
        self._open: dict[str, Any] = {}

    def read(self, piece: Piece, kind: str, tensor_rank: int, tensor: int) -> torch.Tensor:
        """What tensor rank `tensor_rank` of `tensor` holds of a tensor's `kind`, [slice_shape], zeros where it pads.

        Raises ConfigError where the parts are of a tensor of another size, or there are none.
        """
        start, stop = piece.bounds(tensor_rank, tensor)
        target = torch.zeros(piece.slice_shape(tensor))
        along = _along(piece)
        parts = self._parts.get(piece.name, ())
        held = parts[-1].last if parts else 0
        if held != piece.shape[along]:
            raise ConfigError(
                f"{self._folder} holds {held} rows or columns of {piece.name}, the model has {piece.shape[along]}: "
                "it is another model's; name its own checkpoint, or start afresh with checkpoint.resume=never"
            )
        for part in parts:
            first, last = max(start, part.first), min(stop, part.last)
            if first < last:
                wanted = slice(first - part.first, last - part.first)
                stored = self._file(part.file).get_slice(f"{piece.name}/{kind}")
                held = stored[:, wanted] if along else stored[wanted]
                target.narrow(along, first - start, last - first).copy_(held)
        return target

    def _file(self, name: str) -> Any:
        if name not in self._open:
            self._open[name] = self.enter_context(safe_open(self._folder / name, framework="pt"))
        return self._open[name]


def _along(piece: Piece) -> int:
    """The dimension that tensor ranks divide."""
    return 1 if piece.split == "columns" else 0
