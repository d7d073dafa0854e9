"""Which is faster, 1F1B or DualPipeV: steps of both on the same ranks, rows and weights, one after the other.

`python benchmarks/schedules.py [--pairs 5]` prints the ratio of their steps' times three ways: counted in slots from
DeepSpeed's schedule classes; measured with the real engine, messages and updates, where each pass sleeps until its slot
is over, so that few cores stand for many devices; and, with `--compute`, on two ranks that compute. There 1F1B's steps
are also put beside the least that they can take, (m + p - 1) / m of what the slower stage computes in the same step.
`--record` writes it to benchmarks/results/schedules.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

sys.path[:0] = [str(Path(__file__).parents[1])]

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
from deepspeed.runtime.pipe.schedule import BackwardPass, ForwardPass  # noqa: E402
from transformers import LlamaConfig, LlamaForCausalLM  # noqa: E402

from benchmarks.pipeline_slots import in_flight, step_slots  # noqa: E402
from configs.layout import Layout  # noqa: E402
from configs.load import load_config  # noqa: E402
from configs.schema import Schedule  # noqa: E402
from configs.shapes import ModelShape  # noqa: E402
from trainer.build import build_model  # noqa: E402
from trainer.data.micro_batch import global_batches  # noqa: E402
from trainer.data.open import open_stream  # noqa: E402
from trainer.guard import Guard  # noqa: E402
from trainer.model.names import stage_table  # noqa: E402
from trainer.parallel.grid import start_grid  # noqa: E402
from trainer.stages import divide, layer_costs  # noqa: E402
from trainer.step import StepParts, train_step  # noqa: E402

RESULTS = Path(__file__).with_name("results") / "schedules.json"
DEMO = Path(__file__).parents[1] / "configs" / "demo"
SCHEDULES: tuple[Schedule, Schedule] = ("1f1b", "dualpipev")
MODELS = {
    size: ModelShape(1201, 64 * f, 176 * f, 8, heads=4, kv_heads=2, head_dim=16 * f, max_positions=512)
    for size, f in (("narrow", 1), ("wide", 8))
}
SLOT = 0.04
"""Seconds of a forward pass of half a stage where passes sleep; a backward pass takes two."""


class Trial(NamedTuple):
    ranks: int
    micro_batches: int
    sleeps: bool


TRIALS = [Trial(2, 4, True), Trial(4, 8, True), Trial(2, 8, True), Trial(4, 16, True)]
"""The most telling first."""
COMPUTING = Trial(2, 8, False)
"""For which both cores of a machine have to be free."""


class Passes:
    """Times an engine's passes, and lets each last as long as its slot where passes sleep."""

    def __init__(self, engine: Any, halves: int, sleeps: bool) -> None:
        self.seconds: dict[str, list[float]] = {"forward": [], "backward": []}
        self._told = 0.0
        known = engine._INSTRUCTION_MAP
        engine._INSTRUCTION_MAP = known | {
            ForwardPass: self._timed("forward", known[ForwardPass], SLOT * halves * sleeps),
            BackwardPass: self._timed("backward", known[BackwardPass], 2 * SLOT * halves * sleeps),
        }

    def of_step(self) -> float:
        """Seconds of all passes since it was asked last."""
        told = sum(map(sum, self.seconds.values()))
        new, self._told = told - self._told, told
        return new

    def _timed(self, name: str, run: Callable[..., None], least: float) -> Callable[..., None]:
        def timed(engine: Any, *arguments: Any, **options: Any) -> None:
            begun = time.perf_counter()
            run(engine, *arguments, **options)
            time.sleep(max(0.0, least - (time.perf_counter() - begun)))
            self.seconds[name].append(time.perf_counter() - begun)

        return timed


def rank_main(config_file: str, trial: Trial, pairs: int, answer: Path) -> None:
    """Steps of both schedules in turn on this rank; the first pair warms up. Rank 0 writes the seconds."""
    config = load_config(config_file)
    shape = ModelShape.from_folder(config.model.path)
    grid = start_grid(Layout(1, trial.ranks, 1))
    names = tuple(source.name for source in config.data.sources)
    parts: list[StepParts] = []
    passes: list[Passes] = []
    for schedule in SCHEDULES:
        own = replace(grid, layout=replace(grid.layout, schedule=schedule))
        stages = divide(layer_costs(shape, config.data.sequence_length), own.layout)
        table = stage_table(shape, stages[own.stage])
        engine, loss = build_model(config, shape, own, stages, table, range(0), load=True)
        parts.append(StepParts(config, shape, own, engine, loss, names, 1000))
        passes.append(Passes(engine._engine, 1 if schedule == "dualpipev" else 2, trial.sleeps))
    batches = global_batches(open_stream(config), config.batch.rows)
    seconds: list[list[float]] = []
    slowest: list[float] = []
    for step in range(1, pairs + 2):
        batch = next(batches)
        seconds.append([train_step(one, batch, step, Guard()).report.step_seconds for one in parts])
        stage = torch.tensor(passes[0].of_step(), dtype=torch.float64)
        dist.all_reduce(stage, dist.ReduceOp.MAX)
        slowest.append(float(stage))
    if grid.is_main:
        # Of half a stage, by 1F1B's passes, which go through two.
        halves = {name: statistics.median(found) / 2 for name, found in passes[0].seconds.items()}
        told = {"seconds": seconds[1:], "half_stage": halves, "slowest_stage": slowest[1:]}
        answer.write_text(json.dumps(told))


def start(trial: Trial, pairs: int, folder: Path) -> dict[str, Any]:
    """The ranks of a trial, and what they measured beside what slots say."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    name = f"{trial.ranks}-{trial.micro_batches}-{trial.sleeps}"
    answer, config = folder / f"{name}.json", write_config(folder / f"{name}.yaml", trial, folder)
    told = json.dumps([str(config), trial, pairs, str(answer)])
    environment = {"WORLD_SIZE": str(trial.ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ranks = [
        subprocess.Popen(
            [sys.executable, __file__, "--rank", told],
            env=os.environ
            | environment
            | {"RANK": str(r), "LOCAL_RANK": str(r), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        )
        for r in range(trial.ranks)
    ]
    if any(rank.wait() for rank in ranks):
        raise RuntimeError(f"a rank of {trial} failed")
    found = json.loads(answer.read_text())
    ratios = sorted(folded / straight for straight, folded in found["seconds"])
    forward, backward = (found["half_stage"][name] for name in ("forward", "backward"))
    straight, folded = (step_slots(s, trial.ranks, trial.micro_batches, forward, backward) for s in SCHEDULES)
    longer = (trial.micro_batches + trial.ranks - 1) / trial.micro_batches
    least = [longer * stage for stage in found["slowest_stage"]]
    over = sorted(step / ideal for (step, _), ideal in zip(found["seconds"], least, strict=True))
    return {
        **trial._asdict(),
        "backward_to_forward": round(backward / forward, 2),
        "seconds": {
            s: round(statistics.median(t[i] for t in found["seconds"]), 3) for i, s in enumerate(SCHEDULES)
        },
        "ratio_median": round(statistics.median(ratios), 3),
        "ratio_min": round(ratios[0], 3),
        "ratio_max": round(ratios[-1], 3),
        "ratio_in_slots": round(folded / straight, 3),
        "1f1b_over_least": {
            "seconds": round(statistics.median(least), 3),
            "ratio_median": round(statistics.median(over), 3),
            "ratio_min": round(over[0], 3),
            "ratio_max": round(over[-1], 3),
        },
    }


def write_config(file: Path, trial: Trial, folder: Path) -> Path:
    """Passes that sleep are of a model that takes no time to speak of."""
    size = "narrow" if trial.sleeps else "wide"
    length = 64 if trial.sleeps else 512
    sources = (
        "["
        + ", ".join(f"{{name: {n}, path: {DEMO / n}.jsonl, role: {n}}}" for n in ("agent", "general"))
        + "]"
    )
    file.write_text(
        f"model: {{path: {folder / size}, dtype: float32}}\n"
        f"data: {{sequence_length: {length}, too_long: truncate, cache_dir: {folder / 'cache'}, sources: {sources}}}\n"
        f"batch: {{rows: {trial.micro_batches}, micro_rows: 1}}\ntrain: {{steps: 1000}}\n"
        "optimizer: {schedule: constant, warmup_ratio: 0.0}\n"
    )
    return file


def write_model(folder: Path, shape: ModelShape) -> None:
    """A random model with the demo's tokenizer."""
    torch.manual_seed(1)
    LlamaForCausalLM(LlamaConfig(**shape.hf_config(dtype="float32"))).save_pretrained(folder)
    for file in (DEMO / "tokenizer").iterdir():
        shutil.copyfile(file, folder / file.name)


def counted() -> list[dict[str, Any]]:
    """In slots, a backward pass of two; what is in flight is counted in whole stages."""
    rows: list[dict[str, Any]] = []
    for ranks in (2, 4, 8):
        flights = {s: [sum(held) for held in in_flight(s, ranks, 2 * ranks)] for s in SCHEDULES}
        for micro in (times * ranks for times in (2, 4, 8, 16)):
            straight, folded = (step_slots(s, ranks, micro, 1.0, 2.0) for s in SCHEDULES)
            rows.append(
                {
                    "ranks": ranks,
                    "micro_batches": micro,
                    "slots": {"1f1b": straight, "dualpipev": folded},
                    "waiting": {
                        "1f1b": round(1 - 6 * micro / straight, 4),
                        "dualpipev": round(1 - 6 * micro / folded, 4),
                    },
                    "ratio": round(folded / straight, 4),
                    "stages_in_flight": {
                        "1f1b": [float(n) for n in flights["1f1b"]],
                        "dualpipev": [n / 2 for n in flights["dualpipev"]],
                    },
                }
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument(
        "--trials", type=int, default=len(TRIALS), help="of those that sleep, the first so many"
    )
    parser.add_argument("--compute", action="store_true", help="also on two ranks that compute")
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--rank", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rank:
        config, trial, pairs, answer = json.loads(options.rank)
        rank_main(config, Trial(*trial), pairs, Path(answer))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for size, sizes in MODELS.items():
            write_model(folder / size, sizes)
        measured = []
        for trial in [*TRIALS[: options.trials], *([COMPUTING] if options.compute else [])]:
            measured.append(start(trial, options.pairs, folder))
            print(json.dumps(measured[-1]), flush=True)
    result = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}",
        "pairs": options.pairs,
        "slot_seconds": SLOT,
        "counted": counted(),
        "measured": measured,
    }
    if RESULTS.is_file():  # what was not measured now stays
        now = [Trial(each["ranks"], each["micro_batches"], each["sleeps"]) for each in measured]
        before = json.loads(RESULTS.read_text())["measured"]
        kept = [e for e in before if Trial(e["ranks"], e["micro_batches"], e["sleeps"]) not in now]
        result["measured"] = kept + measured
    print(json.dumps(result["counted"], indent=2))
    if options.record:
        RESULTS.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
