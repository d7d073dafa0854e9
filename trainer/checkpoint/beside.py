"""A thread for what waits for a disk."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import TypeVar

T = TypeVar("T")


class Beside:
    """Does one thing after another beside its owner.

    A process may end while it is at something. It would wait for a thread of concurrent.futures, and a disk may hang.
    """

    def __init__(self) -> None:
        self._tasks: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        threading.Thread(target=self._work, daemon=True).start()

    def submit(self, task: Callable[[], T]) -> Future[T]:
        future: Future[T] = Future()

        def run() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(task())
                except BaseException as error:
                    future.set_exception(error)

        self._tasks.put(run)
        return future

    def close(self) -> None:
        """It ends when all is done; nobody waits for it."""
        self._tasks.put(None)

    def _work(self) -> None:
        while task := self._tasks.get():
            task()
