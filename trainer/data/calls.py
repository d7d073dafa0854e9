"""Which tokens of a row make a call: its name, and the arguments or code that follow."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tokenization.sample import SpanKind
from trainer.data.rows import IGNORED, PackedRow

_VALUES = (SpanKind.ARGUMENTS, SpanKind.CODE)
_WRITTEN = (SpanKind.CALL_NAME, *_VALUES)


def call_parts(row: PackedRow) -> NDArray[np.int32]:
    """Of each token 2k where it is of the name of the row's k-th call, 2k + 1 where of its values, else -1; int32 [s].

    A call is a run of CALL_NAME tokens, and the ARGUMENTS or CODE that follow it before the next name. What the
    template writes around them (CONTROL) does not end it; any other kind does, and so does the end of the sample. The
    token that ends a run is of the part that it ends: a model that would go on with the name means another one. A call
    without values is so by its CONTROL alone, which is then of that part, but for what opens the next call as it opened
    this one. A call counts where each token of its name and values is a target: of others the model is not asked for
    all.
    """
    parts = np.full(len(row.tokens), -1, np.int32)
    kinds, starts = row.kinds.tolist(), (row.positions == 0).tolist()
    empty: dict[int, list[int]] = {}  # places of CONTROL in calls that have no values so far
    filled: set[int] = set()  # calls that have values
    openers: dict[int, list[int]] = {}  # and of that before their names
    calls, is_open = 0, False
    for place in range(row.filled):
        kind, before = kinds[place], kinds[place - 1]
        is_open = is_open and not starts[place]
        if kind == SpanKind.CALL_NAME:
            if not is_open or before != SpanKind.CALL_NAME:
                opened = _opener(kinds, starts, place)
                if is_open and (places := empty[calls - 1]):
                    empty[calls - 1] = places[: len(places) - _alike(row.tokens, places, openers[calls - 1])]
                calls, is_open = calls + 1, True
                empty[calls - 1], openers[calls - 1] = [], opened
            parts[place] = 2 * calls - 2
        elif is_open and kind in _VALUES:
            parts[place] = 2 * calls - 1
            empty[calls - 1] = []
            filled.add(calls - 1)
        elif is_open and before in _WRITTEN:
            parts[place] = parts[place - 1]
            is_open = kind == SpanKind.CONTROL
        elif is_open and kind == SpanKind.CONTROL:
            if calls - 1 not in filled:
                empty[calls - 1].append(place)
        else:
            is_open = False
    for call, places in empty.items():
        parts[places] = 2 * call + 1
    is_target = row.labels != IGNORED
    in_part = np.unique(parts[(parts >= 0) & ~is_target & np.isin(row.kinds, _WRITTEN)] // 2)
    counts = (parts >= 0) & is_target & ~np.isin(parts // 2, in_part)
    parts[~counts] = -1
    parts[counts] = 2 * np.unique(parts[counts] // 2, return_inverse=True)[1] + parts[counts] % 2
    return parts


def _opener(kinds: Sequence[int], starts: Sequence[bool], place: int) -> list[int]:
    """Places of the CONTROL right before a name, in the name's sample."""
    first = place
    while not starts[first] and kinds[first - 1] == SpanKind.CONTROL:
        first -= 1
    return list(range(first, place))


def _alike(tokens: NDArray[np.int32], these: Sequence[int], those: Sequence[int]) -> int:
    """How many tokens at the end of both are the same."""
    count = 0
    while count < min(len(these), len(those)) and tokens[these[-1 - count]] == tokens[those[-1 - count]]:
        count += 1
    return count
