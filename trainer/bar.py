"""The progress bar of a run: one line on a terminal, now and then a line in a log file."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm


class Bar(tqdm):  # pyright: ignore[reportMissingTypeArgument]
    """tqdm's bar on a terminal; in a log file a line of its own now and then."""

    def __init__(self, *, initial: int, **options: Any) -> None:
        self._printed = initial
        super().__init__(initial=initial, **options)

    def clear(self, *args: Any, **options: Any) -> None:
        """A log file has no line to be cleared for another."""
        if self.fp.isatty():
            super().clear(*args, **options)

    def close(self) -> None:
        """tqdm ends its line; in a log file each has ended."""
        if self.disable or self.fp.isatty():
            return super().close()
        self.display()
        self.disable = True

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        if self.fp.isatty():
            super().display(msg, pos)
        elif self.n > self._printed:
            self._printed = self.n
            values = self.format_dict
            left = self.format_interval((self.total - self.n) * values["elapsed"] / (self.n - self.initial))
            self.fp.write(f"step {self.n}/{self.total}, {values['postfix'] or ''}, {left} left\n")
            self.fp.flush()


def progress_bar(done: int, steps: int) -> Bar:
    """On stderr; `done` of so many steps are behind it."""
    return Bar(
        total=steps,
        initial=done,
        desc="step",
        dynamic_ncols=True,
        mininterval=0.2 if sys.stderr.isatty() else 10.0,
        bar_format="{desc} {n_fmt}/{total_fmt} {bar:20} {elapsed}<{remaining}{postfix}",
    )
