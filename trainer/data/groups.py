"""Targets by source and kind of span: one index for both, by which losses are summed, and the means that come of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tokenization.sample import SpanKind
from trainer.data.rows import IGNORED, PackedRow

KINDS = tuple(kind.name.lower() for kind in SpanKind)
"""Names of the kinds of spans, by value, as reports have them."""


def group_of(sources: NDArray[np.int32], kinds: NDArray[np.uint8]) -> NDArray[np.int32]:
    """The group of each token: source index x number of kinds + kind. All of one shape."""
    return sources * np.int32(len(KINDS)) + kinds


def groups_of(sources: int) -> int:
    """How many groups so many sources make."""
    return sources * len(KINDS)


def source_of(group: int) -> int:
    return group // len(KINDS)


def kind_of(group: int) -> int:
    return group % len(KINDS)


def count_targets(rows: Sequence[PackedRow]) -> dict[int, int]:
    """Targets per group, ascending; groups without any in these rows are absent."""
    groups = [group_of(row.sources, row.kinds)[row.labels != IGNORED] for row in rows]
    index, count = np.unique(np.concatenate(groups), return_counts=True)
    return dict(zip(index.tolist(), count.tolist(), strict=True))


def added(counts: Mapping[int, int], part: Callable[[int], int]) -> dict[int, int]:
    """The counts of groups, summed by `part` of the group (`source_of`, `kind_of`), ascending."""
    sums: dict[int, int] = {}
    for group, count in counts.items():
        sums[part(group)] = sums.get(part(group), 0) + count
    return dict(sorted(sums.items()))


@dataclass(frozen=True)
class Means:
    """Of what is summed by group, per target. Sources and kinds without a target are absent."""

    whole: float
    by_source: dict[str, float]
    by_kind: dict[str, float]


def means(sums: Sequence[float], counts: Mapping[int, int], sources: Sequence[str]) -> Means:
    """Sums over targets divided by the targets' number: of all, of each source and of each kind of span.

    sums:    by group, [groups]
    counts:  targets by group, as `count_targets` gives them
    sources: names by index
    """

    def mean(of: Callable[[int], bool]) -> float:
        return sum(sums[group] for group in counts if of(group)) / max(
            1, sum(count for group, count in counts.items() if of(group))
        )

    return Means(
        mean(lambda group: True),
        {sources[i]: mean(lambda group, i=i: source_of(group) == i) for i in added(counts, source_of)},
        {KINDS[i]: mean(lambda group, i=i: kind_of(group) == i) for i in added(counts, kind_of)},
    )
