"""One test rank: reads tasks as JSON lines, joins the process groups each asks for, answers in JSON lines.

Kept alive between tests, because importing torch, deepspeed and megatron-core takes seconds per process.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path

ANSWERS = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # whatever a library prints, at its import already, goes to stderr

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]

import rank_tasks  # noqa: E402

from trainer.parallel.grid import stop_grid  # noqa: E402


def main() -> None:
    for line in sys.stdin:
        task = json.loads(line)
        os.environ.update(task["environment"])
        try:
            answer = {"value": getattr(rank_tasks, task["name"])(**task["arguments"])}
        except Exception as error:
            answer = {
                "error": type(error).__name__,
                "message": str(error),
                "traceback": traceback.format_exc(),
            }
        finally:
            stop_grid()
        print(json.dumps(answer), file=ANSWERS, flush=True)


if __name__ == "__main__":
    main()
