"""What the processes have told so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from trainer.verify.job import Answer, Job, Who


@dataclass(frozen=True)
class Answers:
    """Of each pass of each kind of process, what its ranks told, and what was known before any was asked."""

    job: Job
    rows_hash: str
    """Of all rows, as `preview` prints them."""
    names: Sequence[Sequence[str]]
    """The samples of each row of all batches."""
    given: dict[tuple[Who, str], dict[int, Answer]] = field(default_factory=dict)

    def add(self, who: Who, what: str, rank: int, answer: Answer) -> None:
        self.given.setdefault((who, what), {})[rank] = answer

    def whole(self, who: Who, what: str) -> bool:
        """All its ranks have told of this pass."""
        return len(self.given.get((who, what), {})) == self.job.processes(who)

    def first(self, who: Who, what: str) -> Answer:
        return self.given[who, what][0]

    def ranks(self, who: Who, what: str) -> list[tuple[int, Answer]]:
        return sorted(self.given[who, what].items())

    def samples(self, who: Who, what: str) -> dict[tuple[int, int], float]:
        """Sum of the losses of each sample that has targets, by (row, number in the row)."""
        answers = self.given[who, what].values()
        return {(row, sample): loss for answer in answers for row, sample, loss in answer["samples"]}

    def name(self, row: int, sample: int) -> str:
        """Of a sample, counted in its row, or of the padding, which is -1. Rows count through all batches."""
        names = self.names[row]
        if sample < 0:
            return f"the padding of row {row}"
        # One that was alone in its row was cut in two.
        return f"{names[min(sample, len(names) - 1)]}, sample {sample} of row {row}"
