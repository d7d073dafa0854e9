"""`agenttune submit`: a training as a job of Slurm, checked before it waits in the queue."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from configs.check import check_numbers
from configs.errors import ConfigError
from configs.gpus import GPUS, Gpu
from configs.layout import Layout, resolve_layout
from configs.load import load_config
from configs.schema import Config
from configs.shapes import ModelShape
from configs.weights import check_weights
from launch.arguments import Parser
from launch.hosts import Host, Hosts
from launch.job_script import BATCH, SAVE_S, JobOptions, job_script
from launch.plan_question import DEFAULT_GPU
from launch.preflight import check_output, check_settings, check_start
from trainer.checkpoint.choice import resume_folder
from trainer.checkpoint.progress import model_digest
from trainer.plan.layouts import Choice, is_planned
from trainer.plan.setup import NETWORK_GBIT, Cluster

_ROOT = Path(__file__).resolve().parents[1]


def main(argv: Sequence[str]) -> int:
    values = _parser().parse_intermixed_args(argv)
    config = load_config(values.config, values.overrides)
    check_numbers(config)
    if values.gpus_per_node < 0:
        raise ConfigError(f"--gpus-per-node={values.gpus_per_node}: must be at least 0")
    options = JobOptions(
        name=values.name
        or re.sub(r"[^\w.-]+", "-", Path(config.run.output_dir).resolve().name)
        or "agenttune",
        nodes=nodes_for(config, values.gpus_per_node) if values.nodes is None else values.nodes,
        gpus_per_node=values.gpus_per_node,
        time=values.time,
        partition=values.partition,
        account=values.account,
        save_s=values.save_before,
        others=tuple(values.sbatch),
        setup=tuple(values.setup),
    )
    check_options(options)
    if config.launch.hostfile is not None:
        raise ConfigError(
            f"launch.hostfile={config.launch.hostfile}: a job of Slurm trains on its own nodes; add "
            "launch.hostfile=null, or start `agenttune train` without Slurm"
        )
    layout = _layout(config, options)
    words = [values.config, *values.overrides]
    script = job_script(options, sys.executable, str(_ROOT / BATCH), words)
    said = f"{layout} = {layout.world_size} ranks on {options.nodes} node(s)"
    fault = _fault(config, layout)
    if not is_planned(config):
        said += f"; memory is not planned for parallel.schedule={config.parallel.schedule}"
    elif options.gpus_per_node and not fault:
        choice = _planned(config, layout, options, GPUS[values.gpu or DEFAULT_GPU])
        said += f", at most {choice.peak.total / 1e9:.1f} GB on one by plan"
        if values.gpu and not choice.fits:
            has = f"{GPUS[values.gpu].memory / 1e9:g}"
            fault = f"{said}, but --gpu {values.gpu} has {has}; agenttune plan shows what fits"
    if values.dry_run:
        print(script, end="")
        print(said, file=sys.stderr)
        if fault:
            print(f"not submitted, and would not be as things are: {fault}", file=sys.stderr)
        return ConfigError.exit_code if fault else 0
    if fault:
        raise ConfigError(fault)
    if done := _nothing_left(config, layout):
        print(f"not submitted: {done}", file=sys.stderr)
        return 0
    print(f"{said}: {_submit(script)}")
    return 0


def _parser() -> Parser:
    parser = Parser(
        "agenttune submit",
        description="Render a job script for Slurm and submit it. The job saves and is queued again when its time ends "
        "or it is preempted, and goes on from its newest checkpoint.",
        epilog="example: agenttune submit configs/llama2_70b.yaml --partition gpu --account me --time 12:00:00 "
        "checkpoint.every=100. Paths are read from the working directory, which is the job's too.",
    )
    add = parser.add_argument
    add("config", metavar="CONFIG", help="YAML file, see configs/")
    add("overrides", metavar="KEY=VALUE", nargs="*", default=[], help="settings that replace the file's")
    add("--dry-run", action="store_true", help="print the script instead of submitting it")
    add("--nodes", type=int, metavar="N", help="default: as few as hold parallel.tensor x pipeline x data")
    add("--gpus-per-node", type=int, default=8, metavar="N", help="default 8; 0 for a job on CPUs")
    add("--gpu", choices=list(GPUS), help="refuse what by plan does not fit into one of these")
    add("--partition", metavar="NAME", help="default: the cluster's")
    add("--account", metavar="NAME", help="default: yours")
    add(
        "--time",
        default="24:00:00",
        metavar="LIMIT",
        help="of one job, as Slurm writes it (default 24:00:00)",
    )
    add("--name", help="of the job (default: the last part of run.output_dir)")
    save = "seconds before that limit at which the job saves and is queued again (default %(default)s)"
    add("--save-before", type=int, default=SAVE_S, metavar="S", help=save)
    add(
        "--setup",
        action="append",
        default=[],
        metavar="LINE",
        help="a line of shell before it; may be repeated",
    )
    add(
        "--sbatch", action="append", default=[], metavar="OPTION", help="--sbatch=--qos=high; may be repeated"
    )
    return parser


def check_options(options: JobOptions) -> None:
    """Raise ConfigError for what Slurm would not read as it was meant, or would run without an end."""
    for key, value in (
        ("name", options.name),
        ("partition", options.partition),
        ("account", options.account),
    ):
        if value is not None and not re.fullmatch(r"[^\s'\"\\#]+", value):
            raise ConfigError(f"--{key}={value}: must be one word without quotes, as Slurm reads it")
    if not 1 <= options.save_s <= 65535:
        raise ConfigError(f"--save-before={options.save_s}: must be 1 to 65535 seconds, as Slurm takes it")
    for option in options.others:
        if re.match(r"--(time|signal)\b|-t\b", option):
            raise ConfigError(f"--sbatch={option}: is set by --time and --save-before; use these")
    limit = seconds_of(options.time)
    if limit is not None and limit <= options.save_s:
        raise ConfigError(
            f"--time={options.time}: {limit:g} s for a job that is told to save {options.save_s} s before its end, so "
            "at once, and queued again without an end; set --time to more (hours:minutes:seconds), or --save-before "
            "to less"
        )


def seconds_of(limit: str) -> float | None:
    """Of a time limit as sbatch takes it: minutes, minutes:seconds, hours:minutes:seconds, and days-hours with the same
    after it; None where there is none. Raises ConfigError."""
    if limit.upper() in ("0", "INFINITE", "UNLIMITED"):
        return None
    read = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", limit)
    if not read:
        raise ConfigError(
            f"--time={limit}: no time limit of Slurm's; write minutes, hours:minutes:seconds or days-hours:minutes"
        )
    days, *rest = read.groups()
    given = [int(part) for part in rest if part is not None]
    units = (60, 1) if days is None and len(given) < 3 else (3600, 60, 1)
    return int(days or 0) * 86400.0 + sum(part * unit for part, unit in zip(given, units, strict=False))


def nodes_for(config: Config, gpus_per_node: int) -> int:
    """As few as hold the layout, with one copy of the model where the config does not say how many."""
    layout = resolve_layout(config, None)
    return -(-layout.world_size // gpus_per_node) if gpus_per_node else 1


def _layout(config: Config, options: JobOptions) -> Layout:
    """That of the config on these nodes. Raises ConfigError where its ranks do not go into them."""
    per_node = options.gpus_per_node
    for name, number, low in (("--nodes", options.nodes, 1), ("--gpus-per-node", per_node, 0)):
        if number < low:
            raise ConfigError(f"{name}={number}: must be at least {low}")
    layout = resolve_layout(config, options.nodes * per_node or None)
    nodes = Hosts(tuple(Host(f"node {n}", per_node or None) for n in range(options.nodes)), "srun")
    each = nodes.ranks_each(layout)
    if per_node and each < per_node:
        raise ConfigError(
            f"{layout} = {layout.world_size} ranks leave {per_node - each} of {per_node} GPUs idle on each of "
            f"{options.nodes} nodes; set parallel.data=auto, or --nodes and --gpus-per-node to what is needed"
        )
    return layout


def _planned(config: Config, layout: Layout, options: JobOptions, gpu: Gpu) -> Choice:
    cluster = Cluster(gpu, layout.world_size, options.gpus_per_node, NETWORK_GBIT * 1e9 / 8)
    return Choice.of(config, ModelShape.from_folder(config.model.path), cluster, layout)


def _fault(config: Config, layout: Layout) -> str:
    """Why the job would end as soon as it starts; empty if nothing is known."""
    try:
        check_settings(config, layout.world_size)
        if resume_folder(config) is None:
            check_weights(Path(config.model.path))
        check_output(config)
    except ConfigError as error:
        return str(error)
    return ""


def _nothing_left(config: Config, layout: Layout) -> str:
    """What the job would say at once and end; empty where there is something to do. Raises ConfigError, DataError."""
    _, builder = check_settings(config, layout.world_size)
    return check_start(config, builder, model_digest(Path(config.model.path)))


def _submit(script: str) -> str:
    """What sbatch says."""
    try:
        told = subprocess.run(
            ["sbatch"], input=script, capture_output=True, text=True, check=True, env=os.environ
        )
    except FileNotFoundError:
        raise ConfigError(
            "sbatch: no such command; submit where Slurm's commands are, or print the script with --dry-run"
        ) from None
    except subprocess.CalledProcessError as error:
        raise ConfigError(f"sbatch refuses the job: {error.stderr.strip()}") from error
    return told.stdout.strip()
