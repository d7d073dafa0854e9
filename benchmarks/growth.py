"""How a step's time and memory grow: with the length of rows, the number of micro-batches, of stages, and the data.

`python benchmarks/growth.py` measures each point in processes of its own on CPU cores, one thread each, and prints
what a token costs there. Rows of 16 times the shortest, as many tokens a step: packed with samples as long as agents'
are, which a short row cuts, and with one sample each, whose attention grows with it. `attended` is the mean over
tokens of the length of their sample. `--record` writes it to benchmarks/results/growth.json.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import repeat
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1])]

from benchmarks.machine import machine  # noqa: E402
from configs.shapes import ModelShape  # noqa: E402

RESULTS = Path(__file__).with_name("results") / "growth.json"
SHAPE = ModelShape(
    vocab=1000, hidden=128, intermediate=344, layers=4, heads=2, kv_heads=2, head_dim=64, max_positions=16384
)
TOKENS, STEPS = 16384, 2
LENGTHS = [1024, 2048, 4096, 8192, 16384]
MICRO_BATCHES = [2, 8, 32]
STAGES = [1, 2, 4]
DATA = [10_000, 100_000, 1_000_000]


def step_point(length: int, rows: int, stages: int, packed: bool) -> dict[str, Any]:
    """This rank's part of some steps."""
    from benchmarks.conversations import random_batches, sample_lengths
    from benchmarks.drawn_model import drawn_parts
    from trainer.guard import Guard
    from trainer.step import sample_lengths as tokens_of_samples
    from trainer.step import train_step

    parts = drawn_parts(SHAPE, dtype="float32", length=length, rows=rows, processes=stages, pipeline=stages)
    built = _resident()
    lengths = sample_lengths(1) if packed else repeat(length)
    batches = random_batches(rows, length, SHAPE.vocab, seed=1, lengths=lengths)
    trained = [next(batches) for _ in range(STEPS + 1)]
    taken = [train_step(parts, batch, step, Guard()).report for step, batch in enumerate(trained, 1)]
    samples = [length for batch in trained[1:] for length in tokens_of_samples(batch)]
    return {
        "seconds": statistics.median(report.step_seconds for report in taken[1:]),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "built_bytes": built,
        "attended": sum(length * length for length in samples) / sum(samples),
    }


def data_point(count: int, folder: str) -> dict[str, Any]:
    """Opening so many rows for the first and the second time, up to the first packed row."""
    from benchmarks.first_step import make_models, write_rows
    from benchmarks.small_llama import DEMO, write_config
    from configs.load import load_config
    from trainer.data.open import open_stream

    place = Path(folder)
    make_models(place, DEMO / "tokenizer")
    write_rows(place / "rows.jsonl", count)
    config = load_config(
        str(write_config(place, [place / "rows.jsonl"], 512, rows=4, lr=1e-4, data={"eta": 1.0}))
    )
    taken = []
    for _ in range(2):
        begun = time.perf_counter()
        next(open_stream(config))
        taken.append(time.perf_counter() - begun)
    return {"first_seconds": taken[0], "second_seconds": taken[1], "peak_bytes": _most(), "rows": count}


def _resident() -> int:
    import psutil

    return psutil.Process().memory_info().rss


def _most() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def point(kind: str, processes: int = 1, **told: Any) -> dict[str, Any]:
    """Of all processes the slowest and the largest."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ranks = [
        subprocess.Popen(
            [sys.executable, __file__, "--point", kind, json.dumps(told)],
            env=os.environ
            | environment
            | {"RANK": str(r), "LOCAL_RANK": str(r), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for r in range(processes)
    ]
    said = [rank.communicate()[0] for rank in ranks]
    if any(rank.returncode for rank in ranks):
        raise RuntimeError(f"a process of {kind} {told} failed")
    found = [json.loads(each.strip().splitlines()[-1]) for each in said]
    return {key: max(each[key] for each in found) for key in found[0]}


def step_growth() -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}

    def add(name: str, stages: int, length: int, rows: int, packed: bool) -> None:
        told = point("step", stages, length=length, rows=rows, stages=stages, packed=packed)
        each = told["seconds"] / (length * rows)
        row = {"length": length, "attended": round(told["attended"])}
        row |= {"micro_batches": rows, "stages": stages}
        row |= {"microseconds_per_token": round(1e6 * each, 2), "peak_bytes": told["peak_bytes"]}
        row |= {"of_them_built": told["built_bytes"]}
        found.setdefault(name, []).append(row)
        print(name, json.dumps(row), flush=True)

    for length in LENGTHS:
        add("length, packed samples", 1, length, TOKENS // length, True)
    for length in LENGTHS:
        add("length, one sample a row", 1, length, TOKENS // length, False)
    for count in MICRO_BATCHES:
        add("micro-batches", 2, 1024, count, True)
    for stages in STAGES:
        add("stages", stages, 1024, 8, True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--point", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.point:
        kind, told = options.point[0], json.loads(options.point[1])
        print(json.dumps(step_point(**told) if kind == "step" else data_point(**told)))
        return
    result: dict[str, Any] = {"machine": machine(), "parameters": SHAPE.parameters(), **step_growth()}
    result["data"] = []
    for count in DATA:
        with tempfile.TemporaryDirectory() as folder:
            result["data"].append(point("data", count=count, folder=folder))
            print("data", json.dumps(result["data"][-1]), flush=True)
    if options.record:
        RESULTS.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
