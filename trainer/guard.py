"""Which steps are left out: pure, from numbers that all ranks have alike."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from math import isfinite
from pathlib import Path
from shlex import quote
from statistics import median
from typing import Any

from configs.schema import Config, GuardConfig

LEAST_LOSS = 0.1
LEAST_NORM = 0.01
"""A median below these is taken for them: where a model has learned its rows by heart the next may well be ten times
as hard."""


class GuardError(RuntimeError):
    """Too many steps in a row were left out; all ranks raise it alike."""


@dataclass(frozen=True)
class Guard:
    """What is known of the steps up to now. It goes into the checkpoint."""

    losses: tuple[float, ...] = ()
    """Of recent steps that were taken, the newest last, at most `guard.window`."""
    norms: tuple[float, ...] = ()
    """Their gradient norms, before clipping."""
    skipped: int = 0
    """Steps left out in all."""
    in_a_row: int = 0
    """And since the last that was taken."""

    def fault(self, loss: float, norm: float, config: GuardConfig) -> str:
        """Why a step of this loss (nats per target) and gradient norm must not be taken; empty where it may."""
        if not isfinite(loss) or not isfinite(norm):
            return f"loss {loss}, gradient norm {norm}"
        if 2 * len(self.losses) < config.window:
            return ""
        return _spike("loss", loss, self.losses, config.loss, LEAST_LOSS) or _spike(
            "gradient norm", norm, self.norms, config.gradient, LEAST_NORM
        )

    def taken(self, loss: float, norm: float, config: GuardConfig) -> Guard:
        return replace(
            self,
            losses=tuple(deque((*self.losses, loss), config.window)),
            norms=tuple(deque((*self.norms, norm), config.window)),
            in_a_row=0,
        )

    def left_out(self) -> Guard:
        return replace(self, skipped=self.skipped + 1, in_a_row=self.in_a_row + 1)

    def given_up(self, step: int, fault: str, config: Config) -> GuardError | None:
        """What ends the run after `step`, which was left out for `fault`, where it was one too many."""
        if not fault or self.in_a_row < config.guard.patience:
            return None
        first, output = step - self.in_a_row + 1, config.run.output_dir
        return GuardError(
            f"step {step}: {fault}; {self.in_a_row} steps in a row could not be taken, guard.patience is "
            f"{config.guard.patience}. Weights and moments are as they were before the first of them. If a step before "
            f"it has ruined them, go back: checkpoint.resume={output}/checkpoints/step-… names an earlier one, which "
            f"checkpoint.keep has not deleted (or begin anew with never), and lower optimizer.lr. If the rows are to "
            f"blame ({show_rows(output, first, step, config.batch.rows)}), raise guard.patience to go on behind them"
        )

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Guard:
        return cls(
            tuple(values["losses"]), tuple(values["norms"]), int(values["skipped"]), int(values["in_a_row"])
        )


def show_rows(output_dir: str | Path, first: int, last: int, rows: int) -> str:
    """The command that shows what steps `first` to `last`, of so many rows each, are trained on."""
    config = quote(f"{output_dir}/config.yaml")
    return f"`agenttune preview {config} --rows {(first - 1) * rows}:{last * rows}`"


def _spike(what: str, value: float, recent: tuple[float, ...], factor: float | None, least: float) -> str:
    usual = median(recent)
    if factor is None or value <= factor * max(usual, least):
        return ""
    return f"{what} {value:.4g} is more than {factor:g} times {usual:.4g}, the median of {len(recent)} steps"
