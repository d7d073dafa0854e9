"""The one table between Hugging Face names and this rank's parameters, read in both directions.

Import copies along it, export copies back along it, so the two cannot drift apart.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal

from configs.errors import ConfigError
from configs.shapes import ModelShape
from trainer.stages import Ranges

Split = Literal["rows", "columns", "none"]


@dataclass(frozen=True)
class Piece:
    """One Hugging Face tensor's share of a parameter.

    A parameter is its pieces' slices one below the other (along dimension 0); `split` says along which
    dimension the tensor ranks divide the Hugging Face tensor, whose whole shape is `shape`.
    """

    name: str
    shape: tuple[int, ...]
    split: Split

    def bounds(self, tensor_rank: int, tensor: int) -> tuple[int, int]:
        """First and last (exclusive) row or column of a tensor rank's slice; at an uneven end it is shorter."""
        whole = self.shape[1] if self.split == "columns" else self.shape[0]
        if self.split == "none":
            return 0, whole
        share = -(-whole // tensor)
        return min(whole, tensor_rank * share), min(whole, (tensor_rank + 1) * share)

    def slice_shape(self, tensor: int) -> tuple[int, ...]:
        """Shape of a rank's slice, with the padding that makes all ranks' slices equal."""
        if self.split == "rows":
            return (-(-self.shape[0] // tensor), *self.shape[1:])
        if self.split == "columns":
            return (self.shape[0], -(-self.shape[1] // tensor))
        return self.shape


Table = dict[str, tuple[Piece, ...]]

_DECODER: dict[str, tuple[tuple[str, Split], ...]] = {
    "attention_norm.weight": (("input_layernorm.weight", "none"),),
    "attention.qkv.weight": (
        ("self_attn.q_proj.weight", "rows"),
        ("self_attn.k_proj.weight", "rows"),
        ("self_attn.v_proj.weight", "rows"),
    ),
    "attention.output.weight": (("self_attn.o_proj.weight", "columns"),),
    "feed_forward_norm.weight": (("post_attention_layernorm.weight", "none"),),
    "feed_forward.gate_up.weight": (("mlp.gate_proj.weight", "rows"), ("mlp.up_proj.weight", "rows")),
    "feed_forward.down.weight": (("mlp.down_proj.weight", "columns"),),
}


def stage_table(shape: ModelShape, ranges: Iterable[range]) -> Table:
    """Pieces of each parameter of these pipeline layers, by its name in the pipeline.

    Pipeline layers are the embedding (0), the decoder layers, the final norm and the head. A tied head is the
    embedding's own parameter under `tied_modules`, once on each stage that has one of the two or both.
    """
    whole = shape.tensors()
    head = shape.layers + 2

    def piece(name: str, split: Split) -> Piece:
        return Piece(name, whole[name], split)

    table: Table = {}
    for index in chain.from_iterable(ranges):
        if index in (0, head) and shape.tied:
            table["tied_modules.embedding.word.weight"] = (piece("model.embed_tokens.weight", "rows"),)
        elif index == 0:
            table["0.word.weight"] = (piece("model.embed_tokens.weight", "rows"),)
        elif index == head:
            table[f"{head}.weight"] = (piece("lm_head.weight", "rows"),)
        elif index == head - 1:
            table[f"{index}.norm.weight"] = (piece("model.norm.weight", "none"),)
        else:
            prefix = f"model.layers.{index - 1}"
            for parameter, pieces in _DECODER.items():
                table[f"{index}.{parameter}"] = tuple(piece(f"{prefix}.{n}", split) for n, split in pieces)
    return table


def owned_table(shape: ModelShape, stages: Sequence[Ranges], stage: int) -> Table:
    """What a stage writes: its table, but a tied embedding belongs to the first stage alone."""
    table = stage_table(shape, stages[stage])
    if stage > 0:
        table.pop("tied_modules.embedding.word.weight", None)
    return table


def row_offsets(pieces: Sequence[Piece], tensor: int) -> list[int]:
    """Row of a parameter at which each piece's slice begins."""
    offsets = [0]
    for piece in pieces[:-1]:
        offsets.append(offsets[-1] + piece.slice_shape(tensor)[0])
    return offsets


def check_names(available: Container[str], shape: ModelShape) -> None:
    """Raise ConfigError unless a folder has every tensor the shape needs."""
    needed = shape.tensors()
    missing = [name for name in needed if name not in available]
    if missing:
        raise ConfigError(
            f"{len(missing)} of {len(needed)} tensors are missing from the model folder, first {missing[0]}: "
            "download it again or set model.path to a whole one"
        )
