"""How the processes are divided: tensor x pipeline x data."""

from __future__ import annotations

from dataclasses import dataclass

from configs.schema import BatchConfig, Config, Schedule


@dataclass(frozen=True)
class Layout:
    """Ranks that split a layer, stages, copies of the model.

    With `sequence` the tensor ranks split the row too, where the layers are not split. `schedule` is the order of the
    passes, and says how many parts of the model a pipeline rank holds.
    """

    tensor: int
    pipeline: int
    data: int
    sequence: bool = False
    schedule: Schedule = "1f1b"

    def __str__(self) -> str:
        other = "" if self.schedule == "1f1b" else f" under {self.schedule}"
        return f"tensor {self.tensor} x pipeline {self.pipeline} x data {self.data}{other}"

    @property
    def world_size(self) -> int:
        """Processes in all."""
        return self.tensor * self.pipeline * self.data

    @property
    def parts(self) -> int:
        """Contiguous parts that the model's layers are cut into."""
        return self.pipeline * (2 if self.schedule == "dualpipev" else 1)

    @property
    def least_micro_batches(self) -> int:
        """That the schedule needs: DualPipeV fills both ways through the ranks before its main part."""
        return 2 * self.pipeline if self.schedule == "dualpipev" else 1

    def stage_of(self, part: int) -> int:
        """The pipeline rank that holds a part: they go from the first rank to the last, and in DualPipeV back."""
        return part if part < self.pipeline else self.parts - 1 - part

    def micro_batches(self, batch: BatchConfig) -> int:
        """Micro-batches that each copy of the model runs in one optimizer step."""
        return batch.rows // (self.data * batch.micro_rows)


def resolve_layout(config: Config, processes: int | None) -> Layout:
    """The layout of a run on so many processes (None: not known yet).

    `parallel.data: auto` takes the processes left over by tensor x pipeline, and is 1 where they are unknown
    or too few; whether the product fits the processes is `configs.check`'s concern.
    """
    parallel = config.parallel
    data = parallel.data
    if isinstance(data, str):
        data = max(1, (processes or 0) // (parallel.tensor * parallel.pipeline))
    return Layout(parallel.tensor, parallel.pipeline, data, parallel.sequence, parallel.schedule)
