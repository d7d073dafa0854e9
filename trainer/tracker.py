"""Rank 0's record of a run: metrics.jsonl, wandb, the progress bar."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from configs.schema import WandbConfig
from trainer.bar import progress_bar
from trainer.guard import show_rows
from trainer.metrics import StepReport
from trainer.start_up import phase_done, start_told, write_phases
from trainer.step_log import METRICS, keep_lines, line_of
from trainer.wandb_link import WandbLink
from trainer.watchdog import beat


class Tracker:
    """wandb failing or missing never stops training nor holds it up; metrics.jsonl is complete."""

    def __init__(
        self,
        folder: Path,
        config: WandbConfig,
        settings: Mapping[str, Any],
        *,
        done: int,
        steps: int,
        wandb_id: str | None,
    ) -> None:
        """`done` steps are behind a resumed run: later lines of an earlier attempt are dropped."""
        self._file = folder / METRICS
        self.logged = keep_lines(self._file, done)
        """The last step that the log had before."""
        self._stream = self._file.open("a", encoding="utf-8")
        self._patience_s = config.finish_seconds
        self._wandb: WandbLink | None = None
        self.wandb_id = wandb_id
        """Of the run that it goes on with at wandb."""
        if config.mode != "disabled":
            self._wandb = WandbLink(folder, config, settings, wandb_id)
            self.wandb_id = self._wandb.id
            with suppress(OSError):
                _id_file(folder).parent.mkdir(exist_ok=True)
                _id_file(folder).write_text(self._wandb.id, encoding="utf-8")
        self._bar = progress_bar(done, steps)
        self._begins = True
        self._summary: dict[str, Any] = {}

    def record(self, report: StepReport, fault: str = "") -> None:
        """Log a step; `fault` is why it was left out."""
        with self._named():
            self._stream.write(line_of(asdict(report)))
            self._stream.flush()
        if self._begins:
            self._begins = False
            phase_done("first step")
            with self._named():
                write_phases(self._file.parent)
            self.say(start_told())
        self._bar.set_postfix_str(
            f"loss {report.loss:.4f}, lr {report.lr:.2e}, {report.tokens_per_second:,.0f} tokens/s",
            refresh=False,
        )
        self._bar.update()
        if fault:
            self.say(
                f"step {report.step} is left out: {fault}; weights, moments and schedule stay as they were "
                f"({report.skipped} left out in all). Its rows: "
                + show_rows(self._file.parent, report.step, report.step, report.rows)
            )
        if self._wandb:
            values = asdict(report)
            for key in ("step", "data_hash"):
                del values[key]
            for key in [key for key, value in values.items() if isinstance(value, dict)]:
                section = "loss" if key == "loss_by_source" else key
                values |= {f"{section}/{name}": value for name, value in values.pop(key).items()}
            self.tell_wandb(values, report.step)

    def tell_wandb(self, values: Mapping[str, Any], step: int) -> None:
        if self._wandb:
            self._wandb.log(values, step)

    def attach(self, values: Mapping[str, Any]) -> None:
        """Facts of the whole run: into summary.json, and wandb's summary of it."""
        self._summary |= values
        with suppress(OSError):
            text = json.dumps(self._summary, indent=2)
            (self._file.parent / "summary.json").write_text(text + "\n", encoding="utf-8")
        if self._wandb:
            self._wandb.summary(values)

    def say(self, text: str) -> None:
        """A line above the progress bar."""
        self._bar.write(text, file=sys.stderr)

    def close(self) -> None:
        self._bar.close()
        if self._wandb and not self._wandb.close(self._patience_s, beat):
            runs = self._file.parent / "wandb"
            print(
                f"wandb has not taken all, for which it had {self._patience_s:g} s at the end; {self._file} is "
                f"complete, and `wandb sync` of what lies in {runs} sends what wandb had got",
                file=sys.stderr,
            )
        with self._named():
            self._stream.close()

    @contextmanager
    def _named(self) -> Iterator[None]:
        """An OSError of a full disk does not know the file."""
        try:
            yield
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._file)) from error


def last_wandb_id(folder: Path) -> str | None:
    """Of the wandb run that last began in a run's folder. A checkpoint knows that of the time it was written."""
    file = _id_file(folder)
    return file.read_text(encoding="utf-8").strip() or None if file.is_file() else None


def forget_wandb_id(folder: Path) -> None:
    """Where another course begins: a later start must not go on with the run of the one before."""
    _id_file(folder).unlink(missing_ok=True)


def _id_file(folder: Path) -> Path:
    return folder / "wandb" / "current-id.txt"
