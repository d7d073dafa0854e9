"""Which tokens of a row make a call: its name, and the arguments or code that follow."""

from __future__ import annotations

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
    without values is so by its CONTROL alone, which is then of that part. A call counts where each token of its name
    and values is a target: of others the model is not asked for all.
    """
    parts = np.full(len(row.tokens), -1, np.int32)
    kinds, starts = row.kinds.tolist(), (row.positions == 0).tolist()
    empty: dict[int, list[int]] = {}  # places of CONTROL in calls that have no values so far
    calls, is_open = 0, False
    for place in range(row.filled):
        kind, before = kinds[place], kinds[place - 1]
        is_open = is_open and not starts[place]
        if kind == SpanKind.CALL_NAME:
            if not is_open or before != SpanKind.CALL_NAME:
                calls, is_open = calls + 1, True
                empty[calls - 1] = []
            parts[place] = 2 * calls - 2
        elif is_open and kind in _VALUES:
            parts[place] = 2 * calls - 1
            empty[calls - 1] = []
        elif is_open and before in _WRITTEN:
            parts[place] = parts[place - 1]
            is_open = kind == SpanKind.CONTROL
        elif is_open and kind == SpanKind.CONTROL:
            if not np.any(parts[:place] == 2 * calls - 1):
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
