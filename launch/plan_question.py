"""What a plan is asked for: the model's shape, the GPUs, and what nobody said and had to be assumed. No torch here."""

from __future__ import annotations

import argparse
import re
import shlex
from dataclasses import dataclass, replace
from pathlib import Path

from configs.check import check_numbers
from configs.errors import ConfigError
from configs.gpus import GPUS, Gpu, gpu_named
from configs.load import load_config
from configs.schema import Config, TrainConfig
from configs.shapes import SHAPES, ModelShape
from launch.environment import accelerators
from trainer.plan.layouts import Choice
from trainer.plan.setup import NETWORK_GBIT, Cluster

PER_NODE = 8
DEFAULT_GPU = "h100"


@dataclass(frozen=True)
class Question:
    """What a plan was asked for."""

    config: Config
    path: str
    overrides: list[str]
    shape: ModelShape
    model: str
    """Name or folder of the shape."""
    cluster: Cluster
    processes: int
    """Ranks of the config's own layout."""
    assumed: list[str]
    """What was not said and had to be assumed."""
    host_memory: float | None
    """Bytes of a node."""


def ask(args: argparse.Namespace) -> Question:
    """The question that the arguments and the config put. Raises ConfigError."""
    config = load_config(args.config, args.overrides)
    if config.train == TrainConfig():  # how long to train is of no concern here, and often not settled yet
        config = replace(config, train=TrainConfig(steps=1))
    check_numbers(config)
    shape, model = _shape(config, args.shape)
    cluster, processes, assumed = _cluster(config, args)
    if config.model.dtype == "float32":
        assumed.append(
            "flash attention: CUDA has it for bfloat16 alone, so in float32 more may be kept than is told"
        )
    host_memory = None if args.host_memory is None else args.host_memory * 1e9
    return Question(
        config, args.config, args.overrides, shape, model, cluster, processes, assumed, host_memory
    )


def commands(question: Question, choice: Choice) -> tuple[str, str]:
    """What starts a choice on this machine, and through Slurm."""
    keys = {override.partition("=")[0] for override in choice.overrides}
    kept = [override for override in question.overrides if override.partition("=")[0] not in keys]
    told = shlex.join([question.path, *kept, *choice.overrides])
    per_node = min(question.cluster.per_node, choice.setup.layout.world_size)
    nodes = -(-choice.setup.layout.world_size // question.cluster.per_node)
    return (
        f"agenttune train {told}",
        f"agenttune submit {told} --nodes {nodes} --gpus-per-node {per_node}",
    )


def _shape(config: Config, name: str | None) -> tuple[ModelShape, str]:
    if name:
        return SHAPES[name], name
    try:
        return ModelShape.from_folder(config.model.path), config.model.path
    except ConfigError as error:
        if (Path(config.model.path) / "config.json").exists():
            raise
        raise ConfigError(
            f"model.path={config.model.path}: no config.json there to plan by; fetch that file alone, or name a "
            f"known shape: --shape {', '.join(SHAPES)}"
        ) from error


def _cluster(config: Config, args: argparse.Namespace) -> tuple[Cluster, int, list[str]]:
    """The GPUs, the ranks of the config's own layout, and what of both was assumed."""
    assumed: list[str] = []
    parallel = config.parallel
    product = parallel.tensor * parallel.pipeline * (parallel.data if isinstance(parallel.data, int) else 1)
    here = accelerators()
    gpus, per_node = args.gpus, args.gpus_per_node
    if gpus is None and here >= product:
        gpus, per_node = here, per_node or here
        assumed.append(f"--gpus {here}: those of this machine")
    elif gpus is None:
        gpus = product
        why = f"more than the {here} of this machine" if here else "since no GPU is here"
        assumed.append(f"--gpus {gpus}: the ranks of the config's layout, {why}")
    gpu = GPUS[args.gpu] if args.gpu else _gpu_here()
    if gpu is None:
        gpu = GPUS[DEFAULT_GPU]
        assumed.append(f"--gpu {gpu.name}: no known GPU is here")
    if per_node is None:
        per_node = PER_NODE
        if gpus > per_node:
            assumed.append(f"--gpus-per-node {per_node}")
    per_node = _evenly(gpus, per_node)
    network = args.network
    if network is None:
        network = NETWORK_GBIT
        if gpus > per_node:
            assumed.append(f"--network {network:g}: Gbit/s of each GPU, in one direction")
    # Without --gpus a machine may have more than a layout that is settled takes.
    processes = product if args.gpus is None and isinstance(parallel.data, int) else gpus
    return Cluster(gpu, gpus, per_node, network * 1e9 / 8), processes, assumed


def _evenly(gpus: int, per_node: int) -> int:
    """GPUs of each node that ranks run on: as many as on every other. Raises ConfigError where that cannot be."""
    nodes = -(-gpus // per_node)
    if gpus % nodes:
        raise ConfigError(
            f"--gpus {gpus}: on {nodes} nodes of at most {per_node} (--gpus-per-node) no whole number on each, and "
            f"each takes as many ranks as every other; take {gpus - gpus % nodes} or {gpus + nodes - gpus % nodes}"
        )
    return gpus // nodes if nodes > 1 else per_node


def _gpu_here() -> Gpu | None:
    """The type of this machine's first GPU, by the driver's own file."""
    for file in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        found = re.search(r"^Model:\s*(.*)$", file.read_text(errors="replace"), re.MULTILINE)
        return gpu_named(found[1]) if found else None
    return None
