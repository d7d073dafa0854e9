"""DeepSpeed's launcher of one machine's ranks, which imports what it needs before it is told what to start.

Run by its path, in a process of its own, while the settings and the data are checked elsewhere. The launcher's
arguments come as one JSON list on standard input; where that ends without one, so does this process.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from pathlib import Path

_PARTS = ("logging", "numa")
"""Of `deepspeed.utils`: where what the launcher imports from there is defined."""


def main() -> None:
    try:
        launch = _import_alone()
    except (ImportError, AttributeError):  # other versions may have moved things
        for name in [name for name in sys.modules if name.partition(".")[0] == "deepspeed"]:
            del sys.modules[name]
        launch = import_module("deepspeed.launcher.launch").main
    told = sys.stdin.read()
    if not told:
        sys.exit(1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), sys.stdin.fileno())  # the ranks' too
    sys.argv[1:] = json.loads(told)
    launch()


def _import_alone() -> Callable[[], None]:
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
    return import_module("deepspeed.launcher.launch").main


if __name__ == "__main__":
    # Not this folder, where a module of ours could be taken for one of theirs.
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    main()
