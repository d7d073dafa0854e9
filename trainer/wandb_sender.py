"""wandb in a process of its own: `python -m trainer.wandb_sender`, told what to send by `wandb_link.py`.

Whatever wandb waits for or dies of, it is this process alone. Lines of JSON on the standard input say what to do; where
they end without a word, so does this process, since the training has. What a person should know is on stderr.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
from collections.abc import Mapping
from typing import Any, NoReturn


def main() -> None:
    # Signals that a whole job gets are the training's to answer; this ends with its standard input.
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    run: Any = None
    told_of: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(told_of,), daemon=True).start()
    while True:
        told = told_of.get()
        try:
            match told.pop("do"):
                case "init":
                    run = _init(**told)
                case "log":
                    run.log(told["values"], step=told["step"])
                case "summary":
                    run.summary.update(told["values"])
                case "finish":
                    run.finish()
                    _leave(0)
        except Exception as error:
            _say(
                f"wandb stopped ({type(error).__name__}: {error}); training goes on, metrics.jsonl is complete"
            )
            _leave(1)


def _listen(told_of: queue.SimpleQueue[dict[str, Any]]) -> None:
    """A thread, since wandb may hang when the training ends."""
    told: dict[str, Any] = {}
    for line in sys.stdin:
        told = json.loads(line)
        told_of.put(told)
    if told.get("do") != "finish":
        _leave(1)


def _init(folder: str, mode: str, project: str, name: str | None, id: str, config: Mapping[str, Any]) -> Any:
    import wandb  # where it is not installed that is told like any other failure

    if mode == "online" and not (os.environ.get("WANDB_API_KEY") or wandb.login(prompt=False)):
        mode = "offline"
        _say(
            f"wandb: no API key, so this run is kept offline; `wandb sync {folder}/wandb/offline-run-*` sends it"
        )
    return wandb.init(
        project=project,
        name=name,
        id=id,
        resume="allow",
        dir=folder,
        config=dict(config),
        mode=mode,  # pyright: ignore[reportArgumentType] - one of WandbConfig's
        settings=wandb.Settings(silent=True, console="off"),
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _leave(code: int) -> NoReturn:
    """At once: what wandb does when Python ends may wait for its network."""
    os._exit(code)


if __name__ == "__main__":
    main()
