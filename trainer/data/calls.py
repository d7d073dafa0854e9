"""Which tokens of a row make a call: its name, and the arguments or code that follow."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tokenization.sample import SpanKind
from trainer.data.rows import IGNORED, PackedRow

_VALUES = (SpanKind.ARGUMENTS, SpanKind.CODE)


def call_numbers(row: PackedRow) -> NDArray[np.int32]:
    """The call that each token belongs to, counted from 0 in the row, -1 where it belongs to none; int32 [s].

    A call is a run of CALL_NAME tokens, and the ARGUMENTS or CODE that follow it before the next name. What the
    template writes around them (CONTROL) is no part of it and does not end it; any other kind does, and so does the end
    of the sample. A call counts where each of its tokens is a target: of others the model is not asked for all.
    """
    numbers = np.full(len(row.tokens), -1, np.int32)
    kinds, starts = row.kinds.tolist(), (row.positions == 0).tolist()
    calls, is_open = 0, False
    for place in range(row.filled):
        kind = kinds[place]
        if starts[place] or kind not in (SpanKind.CONTROL, SpanKind.CALL_NAME, *_VALUES):
            is_open = False
        if kind == SpanKind.CALL_NAME:
            if not is_open or kinds[place - 1] != SpanKind.CALL_NAME:
                calls, is_open = calls + 1, True
            numbers[place] = calls - 1
        elif kind in _VALUES and is_open:
            numbers[place] = calls - 1
    in_part = np.unique(numbers[(numbers >= 0) & (row.labels == IGNORED)])
    whole = (numbers >= 0) & ~np.isin(numbers, in_part)
    numbers[~whole] = -1
    numbers[whole] = np.unique(numbers[whole], return_inverse=True)[1]
    return numbers
