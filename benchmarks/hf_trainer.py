"""Steps of a small Llama on a CPU against transformers' Trainer: the same weights, packed rows and targets.

`python benchmarks/hf_trainer.py [FILE …] [--pairs 7]` takes a step of each in turn and prints medians, the ratios
of the pairs and the most memory that each took. Theirs is the best that Trainer does with packed rows on a CPU: no
padding, positions that restart with each sample, from which transformers makes the block-diagonal mask, fused
AdamW. The losses of all steps are compared: they agree only where both have the same rows, the same targets, and
samples that do not see each other. First one process of one thread each, on the demo's short samples; again with
Trainer under the settings of malloc that our ranks on a CPU have; with as many tokens in rows of an eighth; on made-up
conversations as long as agents' are; then our two data ranks against their two threads. `attended` is the mean over
places of the length of their sample. `--record` writes it to benchmarks/results/hf_trainer.json.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1])]

from benchmarks.conversations import write_conversations  # noqa: E402
from benchmarks.cost import attended, measured_cpu, predicted  # noqa: E402
from benchmarks.machine import machine  # noqa: E402
from benchmarks.small_llama import DEMO, demo_files, small_llama, write_config  # noqa: E402
from benchmarks.turns import Side, compare, side_command  # noqa: E402
from configs.gpus import GPUS  # noqa: E402
from configs.load import load_config  # noqa: E402
from trainer.parallel.cpu import KEPT_ON_TOP, MAPPED_FROM  # noqa: E402
from trainer.plan.speed import DATASHEET  # noqa: E402

RESULTS = Path(__file__).with_name("results") / "hf_trainer.json"


OUR_MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(MAPPED_FROM), "MALLOC_TRIM_THRESHOLD_": str(KEPT_ON_TOP)}


def trial(config: Path, ranks: int, pairs: int, **theirs: str) -> dict[str, Any]:
    """`theirs`: of Trainer's environment."""
    steps = pairs + 1
    sides = [
        Side(side_command("ours", config, steps), ranks, 1, ranks=True),
        Side(side_command("trainer", config, steps), 1, ranks, ranks=False, **theirs),
    ]
    try:
        for side in sides:
            side.ready()
        told = compare(sides[0], sides[1], pairs)
        told |= {"our_processes": ranks, "their_threads": ranks, "their_settings": theirs}
        settings = load_config(str(config))
        told |= {"row_length": settings.data.sequence_length, "rows": settings.batch.rows}
        told["attended"] = round(attended(settings, 2 * pairs))
        return told
    finally:
        for side in sides:
            side.close()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="*", type=Path, help="conversations; the demo's by default")
    parser.add_argument("--tokenizer", type=Path, default=DEMO / "tokenizer")
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--length", type=int, default=4096)
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shape = small_llama(folder / "model", options.tokenizer)
        write_conversations(folder / "long.jsonl", 400, seed=1)
        demo, long = options.files or demo_files(), [folder / "long.jsonl"]

        def written(name: str, files: list[Path], length: int, rows: int) -> Path:
            (folder / name).mkdir()
            model, data = {"path": str(folder / "model")}, {"eta": 0.5 if len(files) > 1 else 1.0}
            return write_config(folder / name, files, length, rows=rows, lr=1e-4, model=model, data=data)

        config = written("demo", demo, options.length, 2)
        short = written("short", demo, options.length // 8, 16)
        agents = written("agents", long, options.length, 2)
        for of, ranks, theirs in (
            *((config, 1, {}), (config, 1, OUR_MALLOC), (short, 1, {}), (agents, 1, {})),
            (config, 2, {}),
        ):
            found.append(trial(of, ranks, options.pairs, **theirs))
            print(json.dumps(found[-1], indent=2), flush=True)
            shutil.rmtree(of.parent / "run", ignore_errors=True)
        settings = load_config(str(config))
        cpu, measured = measured_cpu(GPUS["h100"]), found[0]["our_seconds"]
        cost = predicted(settings, shape, cpu, measured, 2 * options.pairs, DATASHEET)
        print(json.dumps({"cost model of one process": cost}, indent=2))
    result = {
        "machine": machine("transformers", "accelerate"),
        "parameters": shape.parameters(),
        "vocabulary": shape.vocab,
        "trials": found,
        "cost_model": cost,
    }
    if options.record:
        RESULTS.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
