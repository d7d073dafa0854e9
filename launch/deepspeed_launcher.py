"""DeepSpeed's launcher of one machine's ranks, which imports what it needs before it is told what to start.

Run by its path, in a process of its own, while the settings and the data are checked elsewhere. The launcher's
arguments come as one JSON list on standard input; where that ends without one, so does this process.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

if __name__ == "__main__":
    # Not this folder, where a module of ours could be taken for one of theirs.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

    from deepspeed.launcher import launch

    told = sys.stdin.read()
    if not told:
        sys.exit(1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), sys.stdin.fileno())  # the ranks' too
    sys.argv[1:] = json.loads(told)
    launch.main()
