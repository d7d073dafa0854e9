"""DeepSpeed's launcher of one machine's ranks, which imports what it needs before it is told what to start.

Run by its path, in a process of its own, while the settings and the data are checked elsewhere. The launcher's
arguments come as one JSON list on standard input; where that ends without one, so does this process.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from pathlib import Path
from types import FrameType, ModuleType, SimpleNamespace
from typing import Any

import psutil

_PARTS = ("logging", "numa")
"""Of `deepspeed.utils`: where what the launcher imports from there is defined."""


def main() -> None:
    try:
        launch = _import_alone()
    except (ImportError, AttributeError):  # other versions may have moved things
        for name in [name for name in sys.modules if name.partition(".")[0] == "deepspeed"]:
            del sys.modules[name]
        launch = import_module("deepspeed.launcher.launch")
    told = sys.stdin.read()
    if not told:
        sys.exit(1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), sys.stdin.fileno())  # the ranks' too
    sys.argv[1:] = json.loads(told)
    _leave_saving_to_ranks(launch)
    launch.main()


def _leave_saving_to_ranks(launch: ModuleType) -> None:
    """A signal that says stop is passed on to the ranks, where there are any: Slurm and systemd signal every process.

    DeepSpeed's launcher would kill them 30 seconds after SIGTERM, and die of SIGUSR1, and they with it.
    """

    def pass_on(number: int, frame: FrameType | None) -> bool:
        ranks = [each for each in psutil.Process().children() if each.status() != psutil.STATUS_ZOMBIE]
        for rank in ranks:
            rank.send_signal(number)
        return bool(ranks)

    def answer(number: int, handler: Callable[[int, FrameType | None], Any]) -> None:
        def first_to_ranks(number: int, frame: FrameType | None) -> None:
            if not pass_on(number, frame):
                handler(number, frame)

        signal.signal(number, first_to_ranks if number == signal.SIGTERM else handler)

    signal.signal(signal.SIGUSR1, pass_on)
    # What it takes for the module: it listens to signals by `signal.signal(signal.SIGTERM, handler)`.
    vars(launch)["signal"] = SimpleNamespace(**vars(signal) | {"signal": answer})


def _import_alone() -> ModuleType:
    """The launcher without the rest of DeepSpeed, which takes a second: its packages' first modules are not run."""
    for name in ("deepspeed", "deepspeed.utils"):
        spec = find_spec(name)
        if spec is None:
            raise ImportError(name)
        sys.modules[name] = module_from_spec(spec)
    for part in _PARTS:
        defined = vars(import_module(f"deepspeed.utils.{part}"))
        vars(sys.modules["deepspeed.utils"]).update(
            {n: defined[n] for n in defined if not n.startswith("__")}
        )
    return import_module("deepspeed.launcher.launch")


if __name__ == "__main__":
    # Not this folder, where a module of ours could be taken for one of theirs.
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    main()
