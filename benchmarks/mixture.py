"""Whether the mixture is what was asked for: shares of samples and of targets at several values of eta.

`python benchmarks/mixture.py --agent FILE … --general FILE … --tokenizer FOLDER [--rows 500]` takes so many rows of
4096 tokens for each eta and each unit, prints the table of what was drawn (on stderr) and checks after every row: by
samples each source's count is within 1 of its share, by targets its part of them within 0.5% of its share once 1000
samples are drawn. Without files it takes the demo's. `--record` writes the figures to benchmarks/results/mixture.json.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from configs.schema import Config, DataConfig, ModelConfig, SourceConfig
from trainer.data.open import open_stream
from trainer.data.report import SourceReport, table

LENGTH, SETTLED = 4096, 1000
ETAS = (0.0, 0.2, 0.5, 1.0)
UNITS: tuple[Literal["samples", "targets"], ...] = ("samples", "targets")
BOUND = {"samples": 1.0, "targets": 0.005}
"""Samples that a count may be from its due, and the part of all targets that a source's may be from its share."""
DEMO = Path(__file__).parents[1] / "configs" / "demo"
RESULTS = Path(__file__).with_name("results") / "mixture.json"


def strayed(reports: Sequence[SourceReport], unit: str) -> float:
    """How far the source that is farthest from its share is from it: in samples, or as a part of the targets."""
    if unit == "samples":
        drawn = sum(report.drawn for report in reports)
        return max(abs(report.drawn - report.share * drawn) for report in reports)
    targets = sum(report.targets for report in reports)
    return max(abs(report.targets / targets - report.share) for report in reports)


def mixed(config: Config, rows: int) -> dict[str, Any]:
    """Takes the rows, prints what was drawn, and tells the farthest that any source strayed on the way."""
    data, stream = config.data, open_stream(config)
    farthest = 0.0
    for _ in range(rows):
        next(stream)
        reports = stream.report()
        if data.eta_unit == "samples" or sum(report.drawn for report in reports) >= SETTLED:
            farthest = max(farthest, strayed(reports, data.eta_unit))
    reports = stream.report()
    print(f"eta {data.eta:g} of {data.eta_unit}, {rows} rows\n{table(reports)}\n", file=sys.stderr)
    return {
        "eta": data.eta,
        "unit": data.eta_unit,
        "drawn": {report.name: report.drawn for report in reports},
        "targets": {report.name: report.targets for report in reports},
        "fill": round(sum(report.fill for report in reports), 6),
        "farthest": round(farthest, 6),
        "bound": BOUND[data.eta_unit],
        "holds": farthest <= BOUND[data.eta_unit],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--agent", type=Path, nargs="+", default=[DEMO / "agent.jsonl"])
    parser.add_argument("--general", type=Path, nargs="+", default=[DEMO / "general.jsonl"])
    parser.add_argument("--tokenizer", type=Path, default=DEMO / "tokenizer")
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()
    sources = [SourceConfig(file.stem, str(file), "agent") for file in options.agent]
    sources += [SourceConfig(file.stem, str(file), "general") for file in options.general]
    runs = [
        mixed(
            Config(
                model=ModelConfig(str(options.tokenizer)),
                data=DataConfig(
                    template="chatml", sequence_length=LENGTH, sources=sources, eta=eta, eta_unit=unit
                ),
            ),
            options.rows,
        )
        for eta in ETAS
        for unit in UNITS
    ]
    result = {
        "machine": f"{platform.machine()}, python {platform.python_version()}",
        "versions": {name: version(name) for name in ("tokenizers", "numpy")},
        "agent": [file.name for file in options.agent],
        "general": [file.name for file in options.general],
        "rows": options.rows,
        "runs": runs,
        "holds": all(run["holds"] for run in runs),
    }
    print(json.dumps(result, indent=2))
    if options.record:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    if not result["holds"]:
        sys.exit("a source strayed farther from its share than its bound")


if __name__ == "__main__":
    main()
