"""Which layouts work on so many GPUs, which do not and why, and which is fastest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from configs.check import check_layout
from configs.errors import ConfigError
from configs.layout import Layout, resolve_layout
from configs.schema import Config, ParallelConfig
from configs.shapes import ModelShape
from trainer.plan.activations import stage_kept
from trainer.plan.memory import Memory, all_memory
from trainer.plan.setup import RECOMPUTE, Cluster, Recompute, Setup
from trainer.plan.speed import Speed, speed

MICRO_ROWS = (1, 2, 4, 8)
"""Rows in a micro-batch that are tried."""


@dataclass(frozen=True)
class Choice:
    """A layout with what it takes and gives."""

    config: Config
    """With `parallel.data` a number."""
    setup: Setup

    @classmethod
    def of(cls, config: Config, shape: ModelShape, cluster: Cluster, layout: Layout) -> Choice:
        parallel = replace(config.parallel, data=layout.data)
        return cls(replace(config, parallel=parallel), Setup.of(config, shape, layout, cluster))

    @cached_property
    def memory(self) -> list[Memory]:
        """Of each stage's ranks."""
        return all_memory(self.setup)

    @property
    def fullest(self) -> int:
        """The stage whose ranks hold most; it decides."""
        return max(range(len(self.memory)), key=lambda stage: self.memory[stage].total)

    @property
    def peak(self) -> Memory:
        return self.memory[self.fullest]

    @cached_property
    def speed(self) -> Speed:
        return speed(self.setup)

    @property
    def fits(self) -> bool:
        return self.peak.total <= self.setup.cluster.gpu.memory

    def by_recompute(self) -> dict[Recompute, tuple[float, float]]:
        """Under each mode: bytes of activations that the ranks with most of them keep, and all bytes of the fullest."""
        found: dict[Recompute, tuple[float, float]] = {}
        for mode in RECOMPUTE:
            other = Choice(self.config, replace(self.setup, recompute=mode))
            stages = range(other.setup.layout.pipeline)
            kept = max(other.setup.in_flight(stage) * stage_kept(other.setup, stage) for stage in stages)
            found[mode] = kept, other.peak.total
        return found

    @property
    def overrides(self) -> list[str]:
        """The settings that make a config this choice."""
        parallel = self.config.parallel
        return [
            f"parallel.tensor={parallel.tensor}",
            f"parallel.pipeline={parallel.pipeline}",
            f"parallel.data={parallel.data}",
            f"parallel.sequence={str(parallel.sequence).lower()}",
            f"parallel.recompute={parallel.recompute}",
            f"batch.micro_rows={self.config.batch.micro_rows}",
        ]


@dataclass(frozen=True)
class Refused:
    layout: Layout
    reason: str
    needed: float | None = None
    """Bytes of a rank, where it is memory that is lacking."""
    of_host: bool = False
    """Whether it is a node's main memory."""


@dataclass(frozen=True)
class Plan:
    own: Choice | Refused
    """The config's own layout."""
    ranked: list[Choice]
    """That fit, each layout once as it is fastest, and the config's own as it is; the fastest first."""
    refused: list[Refused]


def make_plan(config: Config, shape: ModelShape, cluster: Cluster, processes: int) -> Plan:
    """The config's own layout on so many processes, and all others on the cluster's GPUs.

    Raises ConfigError for a schedule that no plan counts.
    """
    if not is_planned(config):
        raise ConfigError(
            f"parallel.schedule={config.parallel.schedule}: memory and time are planned for 1f1b alone; set "
            "parallel.schedule=1f1b for a plan of the same layout, and see in the README what dualpipev changes"
        )
    ranked: list[Choice] = []
    refused: list[Refused] = []
    for layout in _layouts(cluster.gpus):
        found = _fastest(config, shape, cluster, layout)
        if isinstance(found, Choice):
            ranked.append(found)
        else:
            refused.append(found)
    ranked.sort(key=_order)
    own = _own(config, shape, cluster, processes, ranked)
    if isinstance(own, Choice) and own not in ranked:
        ranked = sorted([own, *ranked], key=_order)
    return Plan(own, ranked, refused)


def is_planned(config: Config) -> bool:
    """Memory in flight, waiting and traffic are those of 1F1B."""
    return config.parallel.schedule == "1f1b"


def check_nodes(layout: Layout, cluster: Cluster) -> None:
    """Raise ConfigError where a tensor group would lie on several nodes: it waits for its sums in every layer."""
    per_node = cluster.per_node
    if layout.tensor > per_node or (layout.world_size > per_node and per_node % layout.tensor):
        fit = [size for size in range(1, per_node + 1) if per_node % size == 0]
        raise ConfigError(
            f"parallel.tensor={layout.tensor}: a tensor group would lie on several nodes of {per_node} GPUs, whose "
            f"network is too slow for sums in every layer; set parallel.tensor to one of "
            f"{', '.join(map(str, fit))}"
        )


def _order(choice: Choice) -> tuple[float, int]:
    return -choice.speed.tokens_per_second, choice.setup.layout.pipeline


def _layouts(gpus: int) -> Iterator[Layout]:
    sizes = [size for size in range(1, gpus + 1) if gpus % size == 0]
    for tensor in sizes:
        for pipeline in sizes:
            if gpus % (tensor * pipeline) == 0:
                yield Layout(tensor, pipeline, gpus // (tensor * pipeline))


def _fastest(config: Config, shape: ModelShape, cluster: Cluster, layout: Layout) -> Choice | Refused:
    """The best of what can be set beside the layout, or why none of it works."""
    try:
        check_layout(_set(config, layout, "full", False, 1), shape, None, cluster.gpus)
        check_nodes(layout, cluster)
    except ConfigError as error:
        return Refused(layout, str(error))
    tried: list[Choice] = []
    for sequence in (False, True) if layout.tensor > 1 else (False,):
        for micro_rows in MICRO_ROWS:
            for mode in RECOMPUTE:
                changed = _set(config, layout, mode, sequence, micro_rows)
                try:
                    divided = check_layout(changed, shape, None, cluster.gpus)
                except ConfigError:
                    continue
                tried.append(Choice.of(changed, shape, cluster, divided))
    fitting = [choice for choice in tried if choice.fits]
    if fitting:
        return min(fitting, key=_order)
    leanest = min(tried, key=lambda choice: choice.peak.total)
    return Refused(layout, memory_reason(leanest), leanest.peak.total)


def _set(config: Config, layout: Layout, mode: str, sequence: bool, micro_rows: int) -> Config:
    parallel = ParallelConfig(
        tensor=layout.tensor,
        pipeline=layout.pipeline,
        data=layout.data,
        sequence=sequence,
        schedule=config.parallel.schedule,
        recompute=mode,  # pyright: ignore[reportArgumentType]
    )
    return replace(config, parallel=parallel, batch=replace(config.batch, micro_rows=micro_rows))


def _own(
    config: Config, shape: ModelShape, cluster: Cluster, processes: int, ranked: list[Choice]
) -> Choice | Refused:
    layout = resolve_layout(config, processes)
    try:
        layout = check_layout(config, shape, None, processes)
        check_nodes(layout, cluster)
    except ConfigError as error:
        return Refused(layout, str(error))
    choice = Choice.of(config, shape, cluster, layout)
    if choice.fits:
        return choice
    return Refused(layout, f"{memory_reason(choice)}; {_remedy(choice, ranked)}", choice.peak.total)


def memory_reason(choice: Choice) -> str:
    """What does not fit, and the part that is largest."""
    peak, gpu = choice.peak, choice.setup.cluster.gpu
    said = (
        f"{choice.setup.layout}: {peak.total / 1e9:.1f} GB on each rank of stage {choice.fullest}, at most the "
        f"{gpu.memory / 1e9:.0f} GB of {gpu.name}; the largest part is {peak.largest} "
        f"({getattr(peak, peak.largest) / 1e9:.1f} GB)"
    )
    if peak.largest in ("weights", "gradients"):
        said += ", which data ranks do not divide, since a pipeline has ZeRO-1 alone"
    return said


def _remedy(choice: Choice, ranked: list[Choice]) -> str:
    """The least change that helps."""
    config, setup = choice.config, choice.setup
    tensor = setup.layout.tensor
    changes: list[tuple[str, Config]] = []
    if config.batch.micro_rows > 1:
        changes.append(("batch.micro_rows=1", replace(config, batch=replace(config.batch, micro_rows=1))))
    if tensor > 1 and not config.parallel.sequence:
        changes.append(
            ("parallel.sequence=true", replace(config, parallel=replace(config.parallel, sequence=True)))
        )
    for mode in RECOMPUTE[RECOMPUTE.index(config.parallel.recompute) + 1 :]:
        changed = replace(config, parallel=replace(config.parallel, recompute=mode))
        changes.append((f"parallel.recompute={mode}", changed))
    for said, changed in changes:
        try:
            layout = check_layout(changed, setup.shape, None, setup.layout.world_size)
        except ConfigError:
            continue
        if Choice.of(changed, setup.shape, setup.cluster, layout).fits:
            return f"set {said}"
    if ranked:
        return f"set {' '.join(ranked[0].overrides)}"
    return "no layout of these GPUs helps: take more of them, or of a type with more memory"
