"""What a person should know of the data, on stderr: once for a command, however many processes run it."""

from __future__ import annotations

import os
import sys
from functools import cache

LAUNCHER_VARIABLE = "AGENTTUNE_LAUNCHER_PID"
"""Set by `agenttune train` for its ranks: the process that started them, which has opened the data before them."""


@cache
def tell_once(notice: str) -> None:
    """Print a line, unless another process of this command does or has done, or this one has.

    Of ranks that `deepspeed` or `torchrun` started, rank 0 tells; those of `agenttune train` leave it to that.
    """
    is_rank = "RANK" in os.environ
    if is_rank and (os.environ["RANK"] != "0" or LAUNCHER_VARIABLE in os.environ):
        return
    print(notice, file=sys.stderr)
