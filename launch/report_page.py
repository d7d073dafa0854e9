"""A run's report: what is told in words and tables, put into the page."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from launch.report_charts import Chart, left_out
from launch.report_run import RunFiles

_LAST = 20
"""Steps whose median speed is told."""
Table = tuple[str, list[str], list[list[str]]]
"""Title, headings, rows."""


def page(run: RunFiles, drawn: Sequence[Chart]) -> str:
    """The HTML, self-contained: no script, no link, nothing fetched."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
    )
    made = (_evaluations(run), _data(run), _memory(run), _start(run), _checkpoints(run))
    return environment.get_template("report.jinja").render(
        name=run.folder.resolve().name,
        facts=_facts(run),
        warnings=_warnings(run),
        charts=drawn,
        tables=[table for table in made if table[2]],
        settings=run.settings,
    )


def _facts(run: RunFiles) -> list[tuple[str, str]]:
    if not run.steps:
        return [("steps", "none yet")]
    last = run.steps[-1]
    newest = run.steps[-_LAST:]
    losses = [line["loss"] for line in newest if line.get("loss") is not None]
    speeds = [line["tokens_per_second"] for line in newest if line.get("tokens_per_second")]
    facts = [
        ("steps taken", f"{last['step']:,}"),
        (f"loss, last {len(newest)} steps", f"{statistics.fmean(losses):.4f}" if losses else "no number"),
        ("tokens", f"{sum(line.get('tokens', 0) for line in run.steps):,}"),
        ("targets", f"{sum(line.get('targets', 0) for line in run.steps):,}"),
        ("tokens/s", f"{statistics.median(speeds):,.0f}" if speeds else "no number"),
        ("time in steps", _duration(sum(line.get("step_seconds", 0) for line in run.steps))),
    ]
    if last.get("mfu") is not None:
        facts.append(
            ("MFU", f"{statistics.median(line['mfu'] for line in newest if line.get('mfu') is not None):.1%}")
        )
    if run.evaluations:
        loss = run.evaluations[-1].get("loss")
        facts.append(("held-out loss", "no number" if loss is None else f"{loss:.4f}"))
    return facts


def _warnings(run: RunFiles) -> list[str]:
    said = []
    if skipped := left_out(run.steps):
        steps = ", ".join(str(line["step"]) for line in skipped[:10])
        said.append(
            f"{len(skipped)} step(s) left out, their loss or gradient was no number or a spike: {steps}"
        )
    if run.quarantined:
        said.append(f"{run.quarantined} bad row(s) left out, listed in quarantine.jsonl")
    waits = [
        line.get("data_wait_seconds", 0) / line["step_seconds"]
        for line in run.steps[1:]
        if line.get("step_seconds")
    ]
    if waits and (share := statistics.fmean(waits)) > 0.05:
        said.append(f"steps wait for data {share:.0%} of their time: more data.workers may help")
    return said + [f"the newest start ended with an error, {error}" for error in run.errors[:3]]


def _evaluations(run: RunFiles) -> Table:
    keys = ("loss", "calls", "name_exact", "arguments_exact", "call_exact", "token_accuracy")
    shown = [key for key in keys if any(line.get(key) is not None for line in run.evaluations)]
    headings = ["step", *(key.replace("_", " ") for key in shown)]
    return (
        "Held out",
        headings,
        [[str(line["step"]), *(_number(line.get(key)) for key in shown)] for line in run.evaluations[-12:]],
    )


def _data(run: RunFiles) -> Table:
    """Of `data/SOURCE/WHAT` in the summary; a run that goes on has only what its steps tell."""
    sources: dict[str, dict[str, Any]] = {}
    for key, value in run.summary.items():
        kind, _, rest = key.partition("/")
        if kind == "data":
            name, _, what = rest.rpartition("/")
            sources.setdefault(name, {})[what] = value
    columns = [
        what
        for what in next(iter(sources.values()), {})
        if any(found.get(what) for found in sources.values())
    ]
    rows = [[name, *(_number(found.get(what)) for what in columns)] for name, found in sources.items()]
    return "Data", ["source", *columns], rows


def _memory(run: RunFiles) -> Table:
    stages = run.plan.get("stages") or []
    kinds = stages[0]["memory"] if stages else {}
    parts = [part for part in kinds if any(stage["memory"][part] for stage in stages)]
    rows = [[part, *(f"{stage['memory'][part] / 1e9:.2f}" for stage in stages)] for part in parts]
    headings = [f"stage {stage['stage']}, {stage['decoder_layers']} layers" for stage in stages]
    return "Planned memory of a rank on a GPU, GB", ["", *headings], rows


def _start(run: RunFiles) -> Table:
    whole = sum(run.start.values()) or 1.0
    rows = [[name, f"{seconds:.1f}", f"{seconds / whole:.0%}"] for name, seconds in run.start.items()]
    return "Newest start", ["phase", "seconds", "share"], rows


def _checkpoints(run: RunFiles) -> Table:
    rows = [[found.name, f"{found.bytes / 1e9:.2f}"] for found in run.checkpoints]
    return "Checkpoints", ["newest first", "GB"], rows


def _number(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "" if value is None else str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _duration(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    minutes, seconds = divmod(rest, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
