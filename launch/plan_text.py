"""A plan for people to read. Sizes are in GB of 10^9 bytes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, fields

from launch.plan_question import Question, commands
from launch.tables import table
from trainer.plan.host import saving
from trainer.plan.layouts import Choice, Plan, Refused
from trainer.plan.memory import ALLOWANCE, Memory
from trainer.plan.setup import Setup
from trainer.plan.speed import bubble
from trainer.plan.told import traffic_json

SHOWN = 12
"""Layouts that the table has; JSON has all."""


def plan_text(question: Question, plan: Plan, reason: str | None) -> str:
    """Everything about the config's own layout, then the table of layouts."""
    parts = [_head(question), *_own(question, plan, reason), *_ranked(question, plan)]
    return "\n\n".join(parts)


def _head(question: Question) -> str:
    cluster, config = question.cluster, question.config
    gpu, rows = cluster.gpu, config.batch.rows
    lines = [
        f"{question.model} ({question.shape.parameters():,} parameters, {config.model.dtype}), {rows} rows of "
        f"{config.data.sequence_length:,} tokens a step",
        f"on {cluster.gpus} {gpu.name} of {_gb(gpu.memory)} GB ({gpu.source}), {cluster.nodes} node(s) of "
        f"{min(cluster.per_node, cluster.gpus)}; {gpu.link / 1e9:g} GB/s inside a node"
        + (f", {cluster.network * 8 / 1e9:g} Gbit/s of each GPU between nodes" if cluster.nodes > 1 else ""),
        *(f"assumed: {said}" for said in question.assumed),
    ]
    return "\n".join(lines)


def _own(question: Question, plan: Plan, reason: str | None) -> Iterator[str]:
    own = plan.own
    if isinstance(own, Refused):
        yield f"The config's own layout, {own.layout}, does not work: {own.reason}"
        return
    setup = own.setup
    yield (
        f"The config's own layout: {setup.layout}, {_mode(setup)}; {setup.micro_batches} micro-batches of "
        f"{setup.micro_rows} row(s)" + ("" if reason is None else f". It does not work: {reason}")
    )
    yield f"Memory of each rank when it holds most, in GB\n{_memory(own)}"
    yield (
        f"The ranks of stage {own.fullest} decide: {_gb(own.peak.total)} of {_gb(setup.cluster.gpu.memory)} GB, most "
        f"of it {own.peak.largest}. The loss is counted as if every token were a target; {_gb(ALLOWANCE)} GB are "
        "allowed for CUDA, cuBLAS and NCCL. Data ranks divide the optimizer's part alone (ZeRO-1, which is all that a "
        "pipeline can have)."
    )
    modes = (
        f"{mode} {_gb(activations)} (in all {_gb(total)})"
        for mode, (activations, total) in own.by_recompute().items()
    )
    yield f"Activations in GB by parallel.recompute: {', '.join(modes)}"
    yield f"The most that a rank sends in a step, by group\n{_traffic(setup)}"
    yield f"Time of a step\n{_time(own)}"
    yield _disk(question, setup)


def _memory(choice: Choice) -> str:
    names = [field.name for field in fields(Memory)]
    lines = [["stage", "layers", "in flight", *names, "total"]]
    setup = choice.setup
    for stage, memory in enumerate(choice.memory):
        sizes = [_gb(size) for size in asdict(memory).values()]
        numbers = [str(setup.decoders(stage)), str(setup.in_flight(stage))]
        lines.append([str(stage), *numbers, *sizes, _gb(memory.total)])
    return table(lines)


def _traffic(setup: Setup) -> str:
    """Of the stage that sends most in each group."""
    stages = [traffic_json(setup, stage) for stage in range(setup.layout.pipeline)]
    lines = [["group", "GB", "over"]]
    what = {
        "tensor": "sums of hidden states"
        if not setup.sequence
        else "rows gathered, sums of hidden states scattered",
        "pipeline": "hidden states and positions on, gradients back",
        "data": "gradients summed in float32, weights gathered",
        "tied_embedding": "the gradient of the embedding that is the head too",
    }
    for group, said in what.items():
        most = max((stage[group] for stage in stages), key=lambda sent: sent["bytes"])
        if most["bytes"]:
            over = "inside a node" if most["link"] == "node" else "between nodes"
            lines.append([f"{group.replace('_', ' ')}: {said}", f"{most['bytes'] / 1e9:.2f}", over])
    return table(lines) if len(lines) > 1 else "nothing: one rank"


def _time(choice: Choice) -> str:
    time, setup = choice.speed.time, choice.setup
    lines = [["part", "seconds", "share"]]
    lines += [
        [name, f"{seconds:.3f}", f"{seconds / time.total:.1%}"] for name, seconds in asdict(time).items()
    ]
    lines.append(["all", f"{time.total:.3f}", "100.0%"])
    share = bubble(setup.layout.pipeline, setup.micro_batches)
    return (
        f"{table(lines)}\n"
        f"{choice.speed.tokens_per_second:,.0f} tokens/s, {choice.speed.per_gpu:,.0f} of each GPU; MFU "
        f"{choice.speed.mfu:.1%}; the pipeline waits {share:.1%} of its passes\n"
        f"a GPU of the stage with most computes {choice.speed.flops / 1e12:,.1f} TFLOP and moves "
        f"{choice.speed.moved / 1e12:.2f} TB between products; at the datasheets' rates, those of links too, a step "
        f"takes {choice.speed.floor:.3f} s"
    )


def _disk(question: Question, setup: Setup) -> str:
    saved, config = saving(setup), question.config.checkpoint
    kept = "all are kept" if config.keep is None else f"{config.keep} kept, and one more while one is written"
    return (
        f"A checkpoint has {_gb(saved.disk)} GB on the disk ({kept}). Main memory of a node for it: "
        f"{_gb(saved.background)} GB where it is written in the background, {_gb(saved.at_once)} GB where training "
        "waits; beside it what the ranks' own processes take."
    )


def _ranked(question: Question, plan: Plan) -> Iterator[str]:
    gpus = question.cluster.gpus
    if not plan.ranked:
        yield f"No layout works on {gpus} GPUs. The one that lacks least: {_least(plan)}"
        return
    head = [
        "tensor",
        "pipeline",
        "data",
        "sequence",
        "recompute",
        "micro_rows",
        "GB",
        "tokens/s",
        "of each",
        "MFU",
    ]
    lines = [["", *head]]
    shown = plan.ranked[:SHOWN]
    if isinstance(plan.own, Choice) and plan.own in plan.ranked and plan.own not in shown:
        shown = [*shown, plan.own]
    for choice in shown:
        setup = choice.setup
        layout = setup.layout
        lines.append(
            [
                f"{plan.ranked.index(choice) + 1}" + (" *" if choice == plan.own else ""),
                *map(str, (layout.tensor, layout.pipeline, layout.data)),
                "yes" if setup.sequence else "no",
                setup.recompute,
                str(setup.micro_rows),
                _gb(choice.peak.total),
                f"{choice.speed.tokens_per_second:,.0f}",
                f"{choice.speed.per_gpu:,.0f}",
                f"{choice.speed.mfu:.1%}",
            ]
        )
    own = " (* the config's own)" if isinstance(plan.own, Choice) and plan.own in plan.ranked else ""
    more = f", {len(shown)} of {len(plan.ranked)}" if len(shown) < len(plan.ranked) else ""
    yield f"Layouts that work on {gpus} GPUs, fastest first{more}{own}; {len(plan.refused)} do not\n{table(lines)}"
    yield "The fastest:\n" + "\n".join(f"  {command}" for command in commands(question, plan.ranked[0]))


def _least(plan: Plan) -> str:
    """Why the one that lacks a node's main memory alone is none; else of those that lack a GPU's, the one that lacks
    least; else the first."""
    hosts = [one for one in plan.refused if one.of_host]
    if hosts:
        return hosts[0].reason
    lacking = [one for one in plan.refused if one.needed is not None]
    return min(lacking or plan.refused, key=lambda one: one.needed or 0.0).reason


def _mode(setup: Setup) -> str:
    return f"recompute {setup.recompute}" + (", sequence parallelism" if setup.sequence else "")


def _gb(size: float) -> str:
    return f"{size / 1e9:.1f}"
