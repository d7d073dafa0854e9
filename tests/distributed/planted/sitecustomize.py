"""A fault in one rank of a whole job: Python runs this first in each process that has its folder on PYTHONPATH.

AGENTTUNE_PLANTED_CODE is run by rank AGENTTUNE_PLANTED_RANK in place of step 3; planted.txt then has the time.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from pathlib import Path
from types import ModuleType
from typing import Any


class Planter(MetaPathFinder):
    """Waits for `trainer.loop`, which takes `train_step` when it is imported: nothing is imported earlier than else."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        if fullname != "trainer.loop":
            return
        import trainer.step

        sound = trainer.step.train_step

        def train_step(parts: Any, batch: Any, step: int, *rest: Any, **named: Any) -> Any:
            if step == 3:
                Path("planted.txt").write_text(str(time.time()))
                exec(os.environ["AGENTTUNE_PLANTED_CODE"], {})
            return sound(parts, batch, step, *rest, **named)

        trainer.step.train_step = train_step


if os.environ.get("RANK") == os.environ.get("AGENTTUNE_PLANTED_RANK", "none"):
    sys.meta_path.insert(0, Planter())
