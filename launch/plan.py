"""`agenttune plan`: what a run would take and give, before it waits in a queue. No torch here."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from configs.errors import ConfigError
from configs.gpus import GPUS
from configs.shapes import SHAPES
from launch.arguments import Parser
from launch.plan_question import DEFAULT_GPU, PER_NODE, Question, ask, commands
from launch.plan_text import plan_text
from trainer.plan.host import saving
from trainer.plan.layouts import Choice, Plan, Refused, make_plan
from trainer.plan.setup import NETWORK_GBIT
from trainer.plan.told import choice_json, layout_json

_DESCRIPTION = """\
Tells what a config takes and gives on so many GPUs, computed, not measured: memory of each rank by part,
traffic by process group, time of a step, disk and main memory for checkpoints; then all layouts that
work, the fastest first, with the commands that start it.

Neither data nor weights nor a tokenizer have to be there: of model.path only config.json is read, and
--shape stands for that too. Rows that a template adds to the vocabulary are not counted.

It exits with 0 if the config's own layout works, else with 2 and the reason."""
_EPILOG = """\
examples:
  agenttune plan configs/llama2_70b.yaml --shape llama2-70b --gpus 32
  agenttune plan mine.yaml batch.micro_rows=2 --gpu a100-40 --gpus 16 --network 200 --format json

Without --gpus it plans for those of this machine, else for as many as the config's layout has ranks."""


def main(argv: list[str]) -> int:
    args = _parse(argv)
    question = ask(args)
    plan = make_plan(question.config, question.shape, question.cluster, question.processes)
    plan = within_main_memory(question, plan)
    reason = refusal(question, plan)
    if args.format == "json":
        print(json.dumps(plan_json(question, plan, reason), indent=2, ensure_ascii=False))
    else:
        print(plan_text(question, plan, reason))
    if reason:
        raise ConfigError(reason)
    return 0


def refusal(question: Question, plan: Plan) -> str | None:
    """Why the config's own layout does not work; None where it does."""
    return main_memory(question, plan.own) if isinstance(plan.own, Choice) else plan.own.reason


def within_main_memory(question: Question, plan: Plan) -> Plan:
    """The plan, with layouts refused that a node's main memory is too small for."""
    lacking = [
        Refused(choice.setup.layout, reason, of_host=True)
        for choice in plan.ranked
        if (reason := main_memory(question, choice)) is not None
    ]
    ranked = [choice for choice in plan.ranked if main_memory(question, choice) is None]
    return Plan(plan.own, ranked, [*plan.refused, *lacking])


def main_memory(question: Question, choice: Choice) -> str | None:
    """Why a node has too little of it for a layout's checkpoints; None where it has enough, or nobody said how much."""
    if question.host_memory is None:
        return None
    checkpoint, saved = question.config.checkpoint, saving(choice.setup)
    beside = checkpoint.background and checkpoint.every is not None  # the last is written at once
    needed = saved.background if beside else saved.at_once
    if needed <= question.host_memory:
        return None
    helps = saved.at_once <= question.host_memory
    remedy = (
        "set checkpoint.background=false"
        if helps
        else "spread the ranks over more nodes, or take nodes with more memory"
    )
    return (
        f"{choice.setup.layout}: {needed / 1e9:.1f} GB of main memory on a node for a checkpoint, at most "
        f"--host-memory {question.host_memory / 1e9:g} GB; {remedy}"
    )


def plan_json(question: Question, plan: Plan, reason: str | None) -> dict[str, Any]:
    """All that is printed as text, and each layout in full."""
    own = plan.own
    return {
        "model": {
            "name": question.model,
            "parameters": question.shape.parameters(),
            "dtype": question.config.model.dtype,
        },
        "cluster": asdict(question.cluster),
        "assumed": question.assumed,
        "own": {"feasible": reason is None, "reason": reason}
        | (
            choice_json(own) | {"by_recompute": _by_recompute(own)}
            if isinstance(own, Choice)
            else {"layout": layout_json(own.layout)}
        ),
        "layouts": [
            choice_json(choice)
            | {"own": choice == own}
            | dict(zip(("train", "submit"), commands(question, choice), strict=True))
            for choice in plan.ranked
        ],
        "refused": [{"layout": layout_json(one.layout), "reason": one.reason} for one in plan.refused],
    }


def _by_recompute(choice: Choice) -> dict[str, dict[str, float]]:
    return {
        mode: {"activations_bytes": activations, "peak_bytes": total}
        for mode, (activations, total) in choice.by_recompute().items()
    }


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    layout = argparse.RawDescriptionHelpFormatter
    parser = Parser("agenttune plan", description=_DESCRIPTION, epilog=_EPILOG, formatter_class=layout)
    add = parser.add_argument
    add("config", metavar="CONFIG", help="YAML file, see configs/")
    add("overrides", metavar="KEY=VALUE", nargs="*", default=[], help="settings that replace the file's")
    add("--shape", choices=tuple(SHAPES), help="a known model in place of model.path")
    add("--gpus", type=_count, metavar="N", help="GPUs in all")
    add("--gpu", choices=tuple(GPUS), help=f"their type; without any here {DEFAULT_GPU}")
    add("--gpus-per-node", type=_count, metavar="N", help=f"default {PER_NODE}, or those of this machine")
    add(
        "--network",
        type=_amount,
        metavar="GBIT_PER_S",
        help=f"between nodes, of each GPU, in one direction; default {NETWORK_GBIT:g}",
    )
    add("--host-memory", type=_amount, metavar="GB", help="main memory of a node, for checkpoints")
    add("--format", choices=("text", "json"), default="text", help="default text")
    return parser.parse_intermixed_args(argv)  # options may stand between CONFIG and KEY=VALUE


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is no whole number from 1 on")
    return int(text)


def _amount(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is no number above 0")
    return value
