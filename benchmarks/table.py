"""The tables of docs/performance.md, from what is recorded in benchmarks/results: `python benchmarks/table.py` rewrites
them. A figure that was not measured is a dash.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS, PAGE = ROOT / "benchmarks/results", ROOT / "docs/performance.md"
BEGIN, END = "<!-- recorded: python benchmarks/table.py -->", "<!-- end of recorded -->"
MISSING = "–"


def recorded(name: str) -> Any:
    file = RESULTS / f"{name}.json"
    return json.loads(file.read_text()) if file.is_file() else {}


def _of(value: Any, *keys: str | int) -> Any:
    for key in keys:
        value = value[key]
    return value


def goals() -> Iterator[tuple[str, str, str, str, str]]:
    """Number, what, measured, goal, command."""

    def told(measure: Callable[[], str]) -> str:
        try:
            return measure()
        except (KeyError, IndexError, TypeError, StopIteration):
            return MISSING

    tokenise, stream, first = recorded("tokenise"), recorded("stream"), recorded("first_step")
    checkpoint, trainer, overhead = recorded("checkpoint"), recorded("hf_trainer"), recorded("step_overhead")
    schedules, gpu = recorded("schedules"), recorded("gpu")

    def range_of(value: Any, unit: str = "") -> str:
        return f"{value['median']:.2f}{unit} ({value['min']:.2f} to {value['max']:.2f})"

    def ratio(value: Any) -> str:
        return f"{value['ratio_median']:.3f} ({value['ratio_min']:.3f} to {value['ratio_max']:.3f})"

    def computing() -> Any:
        return next(each for each in schedules["measured"] if not each["sleeps"])["1f1b_over_least"]

    yield (
        *("P1", "conversations to packed rows, against TRL", told(lambda: range_of(tokenise["ratio"], "×"))),
        *("≥ 2.5×", "make bench-data"),
    )
    yield (
        *(
            "P2",
            "rows of 4096 filled, no sample cut",
            told(lambda: f"{_of(stream, 'fill', 'log_normal', 'ours', 'fill'):.4f}"),
        ),
        *("≥ 0.9995", "make bench-data"),
    )
    yield (
        *("P3", "second start on 1M conversations to the first step, over TRL's"),
        *(told(lambda: range_of(first["ratio"])), "≤ 0.4", "make bench-start"),
    )
    yield (
        *("P4", "stream, tokens/s of one core, over the tokenizer alone (`encode_batch_fast`)"),
        *(told(lambda: range_of(_of(stream, "first_time", "ratio", "encode_batch_fast", "clock"))), "≥ 0.8"),
        "make bench-data",
    )
    yield (
        *("P5", "our step over a bare loop of the same layers", told(lambda: ratio(overhead["clock"]))),
        *("≤ 1.05", "make bench"),
    )

    def rows_of(one: Callable[[], Any]) -> str:
        return told(lambda: "; {rows} rows of {row_length}, samples of {attended}".format(**one()))

    sides = (
        "one process, one thread each",
        "Trainer under our settings of malloc",
        "short rows",
        "samples as long as agents' are",
        "two data ranks against two threads",
    )
    # A sample's tokens are the mean over places.
    for at, how in enumerate(sides):
        one: Callable[[], Any] = lambda at=at: trainer["trials"][at]  # noqa: E731
        yield (
            "P6",
            f"packed step over transformers' Trainer, {how}" + rows_of(one),
            *(told(lambda one=one: ratio(one())), "≤ 0.85", "make bench"),
        )
        yield (
            *("", "peak memory over its"),
            told(
                lambda one=one: (
                    f"{one()['memory_ratio']:.2f} ({one()['our_peak_bytes'] / 1e9:.2f} of "
                    f"{one()['their_peak_bytes'] / 1e9:.2f} GB)"
                )
            ),
            *("≤ 0.75" if at < 4 else "", ""),
        )
    yield (
        *("P7", "two stages, 8 micro-batches, over (m + p − 1) / m of the slower one's passes"),
        *(told(lambda: ratio(computing())), "≤ 1.05", "make bench"),
    )
    yield (
        *("P8", "reading a shard of 8, over transformers with its tensors copied, warm"),
        *(told(lambda: range_of(_of(checkpoint, "load", "warm", "ratio_copied"))), "≤ 0.25"),
        "make bench-checkpoint",
    )
    written: Callable[[], Any] = lambda: checkpoint["write"]["ratio_ours_to_raw"]  # noqa: E731
    yield (
        *("P9", "writing a Hugging Face checkpoint, over the bare disk", told(lambda: range_of(written()))),
        *("≤ 1.15", "make bench-checkpoint"),
    )
    yield (
        "P10",
        "MFU of 7B layers, no recompute",
        told(
            lambda: (
                f"{_of(gpu, 'steps', 'ours', 'mfu'):.1%} ({_of(gpu, 'steps', 'ours', 'mfu_at_targets'):.1%} with the "
                "head at targets alone)"
            )
        ),
        "≥ 58%",
        "make bench-gpu",
    )
    for title, goal in (
        ("Trainer, SDPA", "1.8"),
        ("Trainer, Liger, varlen", "1.25"),
        ("compiled PyTorch", "1.07"),
    ):
        yield (
            *("P11", f"packed tokens/s over {title}"),
            told(lambda title=title: f"{1 / _of(gpu, 'steps', title, 'ratio_median'):.2f}×"),
            *(f"≥ {goal}×", "make bench-gpu"),
        )
    yield (
        "P12",
        "all 32 layers of 7B with AdamW on one H200: MFU",
        told(lambda: f"{_of(gpu, 'whole', 'mfu'):.1%}"),
        "≥ 55%",
        "make bench-gpu",
    )
    yield (
        "P13",
        "float32 sums of gradients, share of a step",
        told(lambda: f"{_of(gpu, 'sums_share'):.1%}"),
        "≤ 3%",
        "make bench-gpu",
    )
    yield (
        "P13",
        "AdamW's bandwidth over a copy's",
        told(
            lambda: (
                f"{_of(gpu, 'adamw', 'bytes_per_second') / _of(gpu, 'ceilings', 'copy_bytes_per_second'):.0%}"
            )
        ),
        "≥ 85%",
        "make bench-gpu",
    )


def growth() -> Iterator[str]:
    found = recorded("growth")
    for name, points in found.items():
        if not isinstance(points, list):
            continue
        yield f"\n**{name}**\n"
        if name == "data":
            yield "| Rows of the file | Opened first, s | Again, same process, s | Peak memory, MB |"
            yield "| --- | --- | --- | --- |"
            for p in points:
                yield (
                    f"| {p['rows']:,} | {p['first_seconds']:.2f} | {p['second_seconds']:.2f} | "
                    f"{p['peak_bytes'] / 1e6:.0f} |"
                )
            continue
        yield (
            "| Length | Attended | Micro-batches | Stages | µs a token | Peak memory of a rank, MB | of them once "
            "built |"
        )
        yield "| --- | --- | --- | --- | --- | --- | --- |"
        for p in points:
            yield (
                f"| {p['length']} | {p['attended']} | {p['micro_batches']} | {p['stages']} | "
                f"{p['microseconds_per_token']} | "
                f"{p['peak_bytes'] / 1e6:.0f} | {p['of_them_built'] / 1e6:.0f} |"
            )


def cost() -> Iterator[str]:
    """The model of a step beside the measured one."""
    yield "| Step of | TFLOP | moved, GB | TFLOP/s, GB/s | least, s | expected, s | measured, s | over expected |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for where, name, keys in (
        ("two rows of 4096, the small model, one CPU thread", "hf_trainer", ("cost_model",)),
        ("eight layers of 7B, one GPU", "gpu", ("steps", "ours")),
    ):
        told = recorded(name)
        for key in keys:
            told = told.get(key, {})
        numbers = [
            f"{told[of] / unit:{form}}" if of in told else MISSING
            for of, unit, form in (
                ("flops", 1e12, ",.3g"),
                ("moved_bytes", 1e9, ",.3g"),
                ("device_flops", 1e12, ",.3g"),
                ("device_bandwidth", 1e9, ",.0f"),
                ("floor_seconds", 1, ".2f"),
                ("predicted_seconds", 1, ".2f"),
                ("measured_seconds", 1, ".2f"),
                ("measured_over_predicted", 1, ".2f"),
            )
        ]
        numbers[2:4] = [f"{numbers[2]}, {numbers[3]}"]
        yield f"| {where} | {' | '.join(numbers)} |"


def rendered() -> str:
    lines = ["| | What | Measured | Goal | Command |", "| --- | --- | --- | --- | --- |"]
    lines += [f"| {' | '.join(row)} |" for row in goals()]
    lines += ["", "### A step beside its cost model", "", *cost(), "", "### Growth", *growth()]
    lines += ["", "Measured on:", ""]
    for file in sorted(RESULTS.glob("*.json")):
        lines.append(f"- `{file.stem}`: {recorded(file.stem).get('machine', 'not noted')}")
    return "\n".join(lines)


def page() -> str:
    """The page as it should be."""
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{rendered()}\n{END}{after}"


if __name__ == "__main__":
    before, now = PAGE.read_text(encoding="utf-8"), page()
    PAGE.write_text(now, encoding="utf-8")
    print(f"{PAGE.relative_to(ROOT)}: {'unchanged' if before == now else 'written'}")
