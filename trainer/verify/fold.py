"""A layout of many GPUs brought down to the few processes that this machine can run, with its kinds of parallelism."""

from __future__ import annotations

from collections.abc import Iterator

from configs.layout import Layout

STAGES = 3
"""A first, a middle and a last: a fault at a middle stage shows only where there is one."""
_WIDEST = 4
"""Tensor ranks beyond this many show nothing that fewer do not."""
_ROWS = 4
"""Of a batch, for as many micro-batches: more than stages, or of two copies two each."""
_WORK = 1 << 29
"""Tokens of a batch times the vocabulary, most of what a small model computes: four rows of 4096 at 32,768, which take
100 seconds of a core in all."""


def fold(asked: Layout, ranks: int, length: int) -> Layout:
    """`asked` itself where it takes at most `ranks` processes, else what shows most of its faults with as many.

    length: tokens of a row, which sequence parallelism divides
    First come three stages where as many are asked for, then two tensor ranks, then two copies, then more tensor
    ranks, up to four; of what shows as much, the layout of fewer processes. No axis is longer than asked.
    """
    return min(_smaller(asked, ranks, length), key=lambda layout: _lacks(asked, layout))


def batch_rows(layout: Layout, length: int, vocab: int) -> int:
    """Rows of `length` tokens in a batch: four, or two where that is too much, and for each copy at the least those of
    as many micro-batches of two rows as the schedule needs."""
    most = _ROWS if _ROWS * length * vocab <= _WORK else _ROWS // 2
    return layout.data * max(2 * layout.least_micro_batches, most // layout.data)


def _smaller(asked: Layout, ranks: int, length: int) -> Iterator[Layout]:
    if asked.world_size <= ranks:
        yield asked
        return
    for tensor in range(1, min(asked.tensor, ranks) + 1):
        if asked.sequence and length % tensor:
            continue
        for pipeline in range(1, min(asked.pipeline, ranks // tensor) + 1):
            schedule = asked.schedule if pipeline > 1 else "1f1b"  # one rank has nothing to wait for
            for data in range(1, min(asked.data, ranks // (tensor * pipeline)) + 1):
                yield Layout(tensor, pipeline, data, asked.sequence, schedule)


def _lacks(asked: Layout, layout: Layout) -> tuple[int, ...]:
    """How much of what matters a layout is without, the most important first."""
    wanted = (
        (asked.pipeline, layout.pipeline, STAGES),
        (asked.tensor, layout.tensor, 2),
        (asked.data, layout.data, 2),
        (asked.tensor, layout.tensor, _WIDEST),
    )
    return (*(max(0, min(long, enough) - short) for long, short, enough in wanted), layout.world_size)
