"""A run's curves, each as an SVG."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from launch.report_run import RunFiles

_POINTS = 800
"""More steps than that are drawn as means of as many."""
_SMOOTH = 50
"""A bold line is a mean over the run's steps divided by this."""
_SIZE = (6.2, 2.9)
_GREY = "#9aa4b2"
Pairs = tuple[NDArray[np.float64], NDArray[np.float64]]


@dataclass(frozen=True)
class Chart:
    title: str
    said: str
    """What it shows, in a sentence."""
    svg: str


def charts(run: RunFiles) -> list[Chart]:
    """Those of which there is anything to show."""
    made = (
        draw(run)
        for draw in (_loss, _loss_by_kind, _accuracy, _gradient, _layers, _rate, _speed, _share, _memory)
    )
    return [chart for chart in made if chart]


def series(lines: Sequence[dict[str, Any]], *keys: str) -> Pairs:
    """Steps and values of one key, which may be nested; lines without it, or with null, are left out."""
    steps: list[int] = []
    values: list[float] = []
    for line in lines:
        value: Any = line
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        if isinstance(value, int | float):
            steps.append(line["step"])
            values.append(value)
    return np.array(steps, np.float64), np.array(values, np.float64)


def thinned(pairs: Pairs, points: int = _POINTS) -> Pairs:
    """At most so many points: means of neighbours."""
    steps, values = pairs
    if len(steps) <= points:
        return pairs
    cuts = np.linspace(0, len(steps), points + 1).astype(int)
    counts = np.diff(cuts)
    return np.add.reduceat(steps, cuts[:-1]) / counts, np.add.reduceat(values, cuts[:-1]) / counts


def smoothed(pairs: Pairs) -> Pairs:
    """Each value the mean of it and those before it, of a fiftieth of the run."""
    steps, values = pairs
    window = max(1, len(values) // _SMOOTH)
    sums = np.concatenate(([0.0], np.cumsum(values)))
    last = np.arange(1, len(values) + 1)
    first = np.maximum(0, last - window)
    return steps, (sums[last] - sums[first]) / (last - first)


def _chart(title: str, said: str, draw: Callable[[Axes], bool]) -> Chart | None:
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": title, "font.size": 9}):
        figure = Figure(figsize=_SIZE, layout="constrained")
        axes = figure.subplots()
        if not draw(axes):
            return None
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        if axes.get_legend_handles_labels()[1]:
            axes.legend(frameon=False, fontsize=8, ncols=2)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    return Chart(title, said, svg[svg.index("<svg") :])


def _line(axes: Axes, pairs: Pairs, label: str = "", faint: bool = True, **style: Any) -> bool:
    """The values, faint, and their running mean."""
    if len(pairs[0]) == 0:
        return False
    bold = thinned(smoothed(pairs)) if faint else thinned(pairs)
    marker = {"marker": "o", "markersize": 3} if len(bold[0]) < 40 and not faint else {}
    (drawn,) = axes.plot(*bold, label=label or None, linewidth=1.4, **marker, **style)
    if faint:
        axes.plot(*thinned(pairs), color=drawn.get_color(), alpha=0.25, linewidth=0.7)
    return True


def _names(lines: Sequence[dict[str, Any]], key: str) -> list[str]:
    return sorted({name for line in lines for name in (line.get(key) or {})})


def _lines(drawn: Iterator[bool]) -> bool:
    return any(list(drawn))


def _loss(run: RunFiles) -> Chart | None:
    def draw(axes: Axes) -> bool:
        axes.set_ylabel("nats per target")
        found = [_line(axes, series(run.steps, "loss"), "all", color="black")]
        names = _names(run.steps, "loss_by_source")
        if len(names) > 1:
            found += [_line(axes, series(run.steps, "loss_by_source", name), name) for name in names]
        found.append(
            _line(axes, series(run.evaluations, "loss"), "held out", False, color="crimson", linestyle="--")
        )
        return any(found)

    return _chart(
        "Loss", "Of each step, faint, and its running mean: in all, by source, and of what is held out.", draw
    )


def _loss_by_kind(run: RunFiles) -> Chart | None:
    def draw(axes: Axes) -> bool:
        axes.set_ylabel("nats per target")
        names = _names(run.steps, "loss_by_kind")
        return _lines(
            _line(axes, series(run.steps, "loss_by_kind", name), name.replace("_", " ")) for name in names
        )

    return _chart(
        "Loss by kind of span",
        "What the assistant says, names of calls, their arguments, ends of turns.",
        draw,
    )


def _accuracy(run: RunFiles) -> Chart | None:
    def draw(axes: Axes) -> bool:
        axes.set_ylabel("share")
        axes.set_ylim(-0.02, 1.02)
        keys = ("name_exact", "arguments_exact", "call_exact", "token_accuracy")
        return _lines(
            _line(axes, series(run.evaluations, key), key.replace("_", " "), faint=False) for key in keys
        )

    return _chart(
        "Held out, right",
        "Given the text before: targets that have the largest logit, and calls all of whose tokens have.",
        draw,
    )


def _gradient(run: RunFiles) -> Chart | None:
    def draw(axes: Axes) -> bool:
        axes.set_yscale("log")
        axes.set_ylabel("norm before clipping")
        steps = [line["step"] for line in left_out(run.steps)]
        for step in steps:
            axes.axvline(step, color="crimson", linewidth=0.8, alpha=0.6)
        positive = [line for line in run.steps if (line.get("grad_norm") or 0) > 0]
        return _line(axes, series(positive, "grad_norm"))

    return _chart("Gradient norm", "Global, before clipping. Red: steps that were left out.", draw)


def _layers(run: RunFiles) -> Chart | None:
    lines = [line for line in run.steps if line.get("grad_norm_by_layer")]
    names = [] if not lines else list(lines[-1]["grad_norm_by_layer"])

    def draw(axes: Axes) -> bool:
        steps = np.array([line["step"] for line in lines], np.float64)
        norms = np.array(
            [[line["grad_norm_by_layer"].get(name) or np.nan for line in lines] for name in names]
        )
        if len(lines) < 2 or not np.nansum(norms) > 0:
            return False
        # [layer, step], as a picture: each of a thousand steps by eighty layers would be a path of its own.
        shown = axes.pcolormesh(steps, np.arange(len(names)), norms, norm=LogNorm(), rasterized=True)
        axes.figure.colorbar(shown, ax=axes, pad=0.01)
        few = np.unique(np.linspace(0, len(names) - 1, min(len(names), 12)).astype(int))
        axes.set_yticks(few, [names[number].replace("_", " ") for number in few])
        axes.invert_yaxis()
        axes.set_xlim(right=run.steps[-1]["step"])
        return True

    return _chart("Gradient norm by layer", "Before clipping, from the embedding down to the head.", draw)


def left_out(steps: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Steps whose update was not taken."""
    before, found = 0, []
    for line in steps:
        skipped = line.get("skipped") or 0
        found += [line] if skipped > before else []
        before = max(before, skipped)
    return found


def _rate(run: RunFiles) -> Chart | None:
    return _chart(
        "Learning rate",
        "As it was set for each step.",
        lambda axes: _line(axes, series(run.steps, "lr"), faint=False),
    )


def _speed(run: RunFiles) -> Chart | None:
    def draw(axes: Axes) -> bool:
        axes.set_ylabel("tokens/s")
        found = _line(axes, series(run.steps, "tokens_per_second"))
        steps, values = series(run.steps, "mfu")
        if len(steps):
            other = axes.twinx()
            other.set_ylabel("MFU, %")
            other.plot(*thinned(smoothed((steps, 100 * values))), color=_GREY, linewidth=1.2)
        axes.set_ylim(bottom=0)
        return found

    return _chart("Speed", "Tokens that are no padding, over the step's whole time.", draw)


def _share(run: RunFiles) -> Chart | None:
    def draw(axes: Axes) -> bool:
        axes.set_ylabel("%")
        waits = [
            line | {"wait": 100 * line["data_wait_seconds"] / line["step_seconds"]}
            for line in run.steps
            if line.get("step_seconds") and line.get("data_wait_seconds") is not None
        ]
        shares = [
            line | {"of": 100 * line.get("targets", 0) / line["tokens"]}
            for line in run.steps
            if line.get("tokens")
        ]
        filled = [
            line | {"percent": 100 * line["fill"]} for line in run.steps if line.get("fill") is not None
        ]
        found = [
            _line(axes, series(filled, "percent"), "of the rows filled"),
            _line(axes, series(shares, "of"), "of the tokens are targets"),
            _line(axes, series(waits, "wait"), "of the time waiting for data"),
        ]
        axes.set_ylim(-2, 102)
        return any(found)

    return _chart(
        "Shares", "How full rows are, how much of them is learned, how long steps wait for data.", draw
    )


def _memory(run: RunFiles) -> Chart | None:
    def draw(axes: Axes) -> bool:
        axes.set_ylabel("GB")
        lines = [line | {"gb": line["memory"] / 1e9} for line in run.steps if line.get("memory")]
        found = _line(axes, series(lines, "gb"), faint=False)
        axes.set_ylim(bottom=0)
        return found

    return _chart("Memory of rank 0", "The device's peak, or on a CPU what the process holds.", draw)
