"""What a plan is made for: a model, a layout, a batch, and the machines."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from typing import Literal

from configs.gpus import Gpu
from configs.layout import Layout
from configs.schema import Config
from configs.shapes import ModelShape
from trainer.stages import Ranges, divide, layer_costs

Recompute = Literal["none", "selective", "full"]
RECOMPUTE: tuple[Recompute, ...] = ("none", "selective", "full")
NETWORK_GBIT = 400.0
"""Of each GPU, in one direction, where nobody says: HGX nodes have a network adapter of that rate for each."""


@dataclass(frozen=True)
class Cluster:
    """GPUs of one type, some in each node."""

    gpu: Gpu
    gpus: int
    per_node: int
    network: float
    """Bytes per second between nodes, of each GPU, in one direction."""

    @property
    def nodes(self) -> int:
        return -(-self.gpus // self.per_node)


@dataclass(frozen=True)
class Setup:
    """One layout of one run. Letters as in `trainer.model.layers`; a token is one place of a packed row."""

    shape: ModelShape
    layout: Layout
    cluster: Cluster
    item: int
    """Bytes of a weight: 2 in bfloat16, 4 in float32."""
    recompute: Recompute
    length: int
    rows: int
    micro_rows: int
    samples: tuple[int, ...] = ()
    """Tokens of each sample in `counted_rows` rows such as those trained on; without any, each row is one sample."""
    counted_rows: int = 1
    targets: float = 1.0
    """Share of places with a target, at which alone the head is taken. Memory is planned as if all had one."""

    @classmethod
    def of(cls, config: Config, shape: ModelShape, layout: Layout, cluster: Cluster) -> Setup:
        return cls(
            shape=shape,
            layout=layout,
            cluster=cluster,
            item={"bfloat16": 2, "float32": 4}[config.model.dtype],
            recompute=config.parallel.recompute,
            length=config.data.sequence_length,
            rows=config.batch.rows,
            micro_rows=config.batch.micro_rows,
        )

    @cached_property
    def stages(self) -> tuple[Ranges, ...]:
        """Pipeline layers of each stage."""
        return _stages(tuple(layer_costs(self.shape, self.length)), self.layout)

    @property
    def micro_batches(self) -> int:
        """Of one data rank in a step."""
        return self.rows // (self.layout.data * self.micro_rows)

    @property
    def tokens(self) -> int:
        """Places in a micro-batch."""
        return self.length * self.micro_rows

    @property
    def attended(self) -> float:
        """Mean over places of the tokens of their sample."""
        return sum(n * n for n in self.samples or (self.length,)) / (self.length * self.counted_rows)

    @property
    def sequence(self) -> bool:
        return self.layout.sequence and self.layout.tensor > 1

    @property
    def stream_tokens(self) -> float:
        """Places of a micro-batch that a rank has of the residual stream."""
        return self.tokens / self.layout.tensor if self.sequence else self.tokens

    def decoders(self, stage: int) -> int:
        """Decoder layers of a stage: pipeline layers 1 to `shape.layers`."""
        return sum(min(p.stop, self.shape.layers + 1) - max(p.start, 1) for p in self.stages[stage])

    def first(self, stage: int) -> bool:
        return stage == 0

    def last(self, stage: int) -> bool:
        return stage == self.layout.pipeline - 1

    def in_flight(self, stage: int) -> int:
        """Micro-batches whose activations a stage holds at the same time under 1F1B (Narayanan et al. 2021)."""
        return min(self.micro_batches, self.layout.pipeline - stage)


@cache
def _stages(costs: tuple[float, ...], layout: Layout) -> tuple[Ranges, ...]:
    return divide(costs, layout)
