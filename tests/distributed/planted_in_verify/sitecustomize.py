"""A fault of `verify_faults.py` in the processes of `agenttune verify`, which run this first: it is on PYTHONPATH.

PLANTED_FAULT names it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from pathlib import Path
from types import ModuleType


class Planter(MetaPathFinder):
    """Waits for `trainer.verify.small_model`, which is imported when all that a rank needs is there."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        if fullname != "trainer.verify.small_model":
            return
        sys.path.insert(0, str(Path(__file__).parents[1]))
        from verify_faults import plant

        plant(os.environ["PLANTED_FAULT"])


if "PLANTED_FAULT" in os.environ:
    sys.meta_path.insert(0, Planter())
