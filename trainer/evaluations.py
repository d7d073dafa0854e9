"""What an evaluation reports, and where it goes: evaluations.jsonl, a line for people, wandb."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trainer.step_log import keep_lines, line_of

EVALUATIONS = "evaluations.jsonl"


@dataclass(frozen=True)
class EvaluationReport:
    """One line of evaluations.jsonl, of the weights after a step. Losses are nats per target of all rows looked at,
    shares lie within 0 and 1; those of calls are None where no call is looked at.

    All that is counted is teacher-forced: each token is predicted from the data's own tokens before it, and right where
    the largest logit is its own, of equal ones that of the lowest id.
    """

    step: int
    loss: float
    loss_by_source: dict[str, float]
    loss_by_kind: dict[str, float]
    """By `SpanKind` of the target, named in lower case."""
    targets: int
    token_accuracy: float
    """Share of the targets that are right."""
    calls: int
    name_exact: float | None
    """Share of the calls whose name is right, every token of it."""
    arguments_exact: float | None
    """Share of the calls whose arguments or code are right, every token of them."""
    call_exact: float | None
    """Share of the calls that are right in both."""
    seconds: float
    data_hash: str
    """Of the samples looked at: evaluations with equal hashes can be compared."""

    def said(self) -> str:
        """A line for people."""
        calls = (
            f"; of {self.calls:,} calls {self.name_exact:.1%} right in name, {self.arguments_exact:.1%} in arguments, "
            f"{self.call_exact:.1%} in both"
            if self.calls
            else ""
        )
        return (
            f"held out, step {self.step}: loss {self.loss:.4f}, {self.token_accuracy:.1%} of {self.targets:,} targets "
            f"right{calls} ({self.seconds:.1f} s)"
        )

    def values(self) -> dict[str, Any]:
        """By the names that wandb shows."""
        told = asdict(self)
        for apart in ("step", "loss_by_source", "loss_by_kind", "data_hash"):
            del told[apart]
        told |= {f"loss/{name}": loss for name, loss in self.loss_by_source.items()}
        told |= {f"loss_by_kind/{name}": loss for name, loss in self.loss_by_kind.items()}
        return {f"held_out/{name}": value for name, value in told.items() if value is not None}


class EvaluationLog:
    """The evaluations of a run, by rank 0."""

    def __init__(self, folder: Path, done: int) -> None:
        """`done` steps are behind a resumed run: later lines of an earlier attempt are dropped."""
        self._file = folder / EVALUATIONS
        self.logged = keep_lines(self._file, done)
        """The step of the last evaluation that the log had before; 0 where it had none."""

    def add(self, report: EvaluationReport) -> None:
        """Append a line. Raises OSError with the file's name."""
        try:
            with self._file.open("a", encoding="utf-8") as file:
                file.write(line_of(asdict(report)))
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._file)) from error
