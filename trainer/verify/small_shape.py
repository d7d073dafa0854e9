"""The sizes of a model of the run's architecture that is small enough for a CPU. No torch here."""

from __future__ import annotations

from dataclasses import replace

from configs.layout import Layout
from configs.shapes import ModelShape

HIDDEN = 64
HEAD_DIM = 16


def small_shape(shape: ModelShape, asked: Layout, layout: Layout) -> ModelShape:
    """`shape` with its widths and its depth cut down, to be run as `layout` in place of `asked`.

    Kept are the number of query heads for each key-value head, the ratio of the feed-forward width, the vocabulary, a
    tied head, the rotary embedding, the norms' epsilon and the most positions. A tensor rank has one key-value head
    where one of `asked` has, else two, since their order is then of account. One layer more than parts makes parts
    uneven.
    """
    each = 1 if shape.kv_heads <= asked.tensor else 2
    kv_heads = layout.tensor * each
    share = max(1, round(HIDDEN * shape.intermediate / shape.hidden / layout.tensor))
    return replace(
        shape,
        hidden=HIDDEN,
        intermediate=share * layout.tensor,
        layers=max(layout.parts, min(shape.layers, layout.parts + 1)),
        heads=kv_heads * (shape.heads // shape.kv_heads),
        kv_heads=kv_heads,
        head_dim=HEAD_DIM,
    )
