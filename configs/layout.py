"""How the processes are divided: tensor x pipeline x data."""

from __future__ import annotations

from dataclasses import dataclass

from configs.schema import BatchConfig, Config


@dataclass(frozen=True)
class Layout:
    """Ranks that split a layer, stages, copies of the model.

    With `sequence` the tensor ranks split the row too, where the layers are not split.
    """

    tensor: int
    pipeline: int
    data: int
    sequence: bool = False

    def __str__(self) -> str:
        return f"tensor {self.tensor} x pipeline {self.pipeline} x data {self.data}"

    @property
    def world_size(self) -> int:
        """Processes in all."""
        return self.tensor * self.pipeline * self.data

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
    return Layout(parallel.tensor, parallel.pipeline, data, parallel.sequence)
