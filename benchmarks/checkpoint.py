"""How fast weights are read and written, in how much memory, and what saving in the background spares training.

`python benchmarks/checkpoint.py [--pairs 7] [--parts load,write,tensor,train]` makes a random Llama of 1.35 billion
parameters in the temporary folder (2.7 GB; 8 GB of disk and 10 GB of memory are needed) and measures, sides in turn:

- load: one of 8 tensor ranks reads its slices, against `from_pretrained` of transformers, each in a process of its own
  after its imports, the files in the system's memory before (`warm`) or not (`cold`). What transformers returns lies in
  pages mapped from the file, which have yet to be read: `copied` moves each parameter to memory of the process, as ours
  is; `touched` only looks at a byte of each page. Ours has the environment of a rank: one thread on a CPU.
- write: the weight files of at most 500 MB from float32 weights, cast, flushed, hashed and read back as in a
  checkpoint, against the same bytes written and flushed (`raw`), those also read back from the disk and hashed
  (`raw_read_back`), and `save_pretrained` of transformers from bfloat16 weights, which neither flushes nor looks at
  what it wrote; in an order that chance gives each round. Memory is the growth of the peak of what is resident, over
  the weights themselves.
- tensor: the same from two processes that hold a half of each tensor.
- train: a model of 0.2 billion is trained in one process: a step with and without a checkpoint written beside it, and
  how long the loop is held up by a checkpoint in the background and by one that is written at once.

`--record` writes medians, extremes and the pairs' ratios to benchmarks/results/checkpoint.json, where parts that were
not measured stay as they were.
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
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from launch.environment import library_environment

RESULTS = Path(__file__).with_name("results") / "checkpoint.json"
PARTS = ("load", "write", "tensor", "train")
TENSOR = 8
COLD, TWO, SAVES = 3, 5, 3
"""Pairs of loads without the files in memory, and of writing from two processes; checkpoints of either kind."""
DISK = 8e9


def start(
    task: str, folder: Path, number: int, ranks: int = 1, script: str = "checkpoint_weights.py"
) -> list[dict[str, Any]]:
    """The answers of a task's processes, in the order of ranks."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes: list[subprocess.Popen[str]] = []
    for rank in range(ranks):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "MASTER_ADDR": "127.0.0.1"}
        environment = os.environ | {key: str(value) for key, value in (place | {"MASTER_PORT": port}).items()}
        if task != "load_transformers":  # which has the threads it takes by itself
            environment |= library_environment()
        command = [sys.executable, str(Path(__file__).with_name(script)), task, str(folder), str(number)]
        with (folder / f"log-{rank}").open("w") as log:
            processes.append(
                subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True)
            )
    answers = [process.communicate()[0] for process in processes]
    for rank, process in enumerate(processes):
        if process.returncode:
            raise RuntimeError((folder / f"log-{rank}").read_text())
    return [json.loads(answer.splitlines()[-1]) for answer in answers]  # imports may print too


def spread(numbers: Sequence[float], digits: int = 3) -> dict[str, float]:
    found = {"median": statistics.median(numbers), "min": min(numbers), "max": max(numbers)}
    return {name: round(value, digits) for name, value in found.items()}


def ratios(ours: Sequence[float], others: Sequence[float]) -> dict[str, float]:
    return spread([a / b for a, b in zip(ours, others, strict=True)])


def megabytes(size: float) -> float:
    return round(size / 1e6, 1)


def settle_files(folder: Path, *, warm: bool) -> None:
    """Into the system's memory, or out of it."""
    buffer = bytearray(1 << 24)
    for file in folder.glob("*.safetensors"):
        with file.open("rb", buffering=0) as source:
            if warm:
                while source.readinto(buffer):
                    pass
            else:
                os.posix_fadvise(source.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def loads(folder: Path, pairs: int, *, warm: bool) -> dict[str, Any]:
    ours: list[dict[str, Any]] = []
    theirs: list[dict[str, Any]] = []
    for pair in range(pairs):
        settle_files(folder / "big", warm=warm)
        ours += start("load_ours", folder, pair % TENSOR)
        settle_files(folder / "big", warm=warm)
        theirs += start("load_transformers", folder, 0)
        print(f"load: {ours[-1]['seconds']:.2f} s, {theirs[-1]['copied']:.2f} s", file=sys.stderr)
    seconds = [each["seconds"] for each in ours]
    result: dict[str, Any] = {"pairs": pairs, "ours_seconds": spread(seconds)}
    for name in ("returned", "touched", "copied"):
        result[f"transformers_{name}_seconds"] = spread([each[name] for each in theirs])
    for name in ("touched", "copied"):
        result[f"ratio_{name}"] = ratios(seconds, [each[name] for each in theirs])
    most = max(ours, key=lambda each: each["peak"] - each["shard"])
    return result | {
        "megabytes": {
            "shard": megabytes(most["shard"]),
            "ours_peak": megabytes(most["peak"]),
            "ours_peak_over_shard": megabytes(most["peak"] - most["shard"]),
            "ours_private_after": megabytes(most["private"]),
            "ours_mapped_after": megabytes(most["mapped"]),
            "transformers_peak_touched": megabytes(max(each["peak"] for each in theirs)),
            "transformers_private_copied": megabytes(max(each["private"] for each in theirs)),
        }
    }


def writes(folder: Path, pairs: int, ranks: int) -> dict[str, Any]:
    answers = start("write", folder, pairs, ranks)
    first = answers[0]
    seconds, largest = first["seconds"], first["largest"]
    peak = {name: max(answer["peak"][name] for answer in answers) for name in seconds}
    result: dict[str, Any] = {"pairs": pairs, "ranks": ranks, "files": first["files"]}
    result |= {f"{name}_seconds": spread(taken) for name, taken in seconds.items()}
    for name in seconds:
        if name != "raw":
            result[f"ratio_{name}_to_raw"] = ratios(seconds[name], seconds["raw"])
    result["megabytes"] = {"largest_file": megabytes(largest)}
    result["megabytes"] |= {f"{name}_peak": megabytes(size) for name, size in peak.items()}
    return result | {"ours_peak_to_file": round(peak["ours"] / largest, 3)}


def trains(folder: Path) -> dict[str, Any]:
    (answer,) = start("train", folder, SAVES, script="checkpoint_training.py")
    seconds = answer["seconds"]
    beside = ratios(seconds["step_beside"], seconds["step_alone"])
    spared = ratios(seconds["held_up_background"], seconds["held_up_at_once"])
    lost = ratios(seconds["lost_background"], seconds["held_up_at_once"])
    result: dict[str, Any] = {"parameters": answer["parameters"], "checkpoints": SAVES}
    result |= {f"{name}_seconds": spread(taken) for name, taken in seconds.items()}
    result |= {"ratio_step_beside": beside, "ratio_held_up": spared, "ratio_lost": lost}
    return result


def measure(folder: Path, pairs: int, parts: Sequence[str]) -> dict[str, Any]:
    free = shutil.disk_usage(folder).free
    if free < DISK:
        raise SystemExit(f"{folder} has {free / 1e9:.0f} GB free: {DISK / 1e9:g} GB are needed")
    (made,) = start("make", folder, 0)
    names = ("torch", "transformers", "safetensors", "deepspeed")
    result: dict[str, Any] = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, python {platform.python_version()}",
        "versions": {name: version(name) for name in names},
        "parameters": made["parameters"],
        "megabytes": megabytes(made["bytes"]),
    }
    if "load" in parts:
        goal = "ratio_copied at most 0.25, peak at most the shard + 400 MB"
        found = {"warm": loads(folder, pairs, warm=True), "cold": loads(folder, COLD, warm=False)}
        result["load"] = {"tensor_ranks": TENSOR, **found, "goal": goal}
    if "write" in parts:
        goal = "ratio_ours_to_raw at most 1.15, ours_peak_to_file at most 1.3"
        result["write"] = writes(folder, pairs, 1) | {"goal": goal}
    if "tensor" in parts:
        result["tensor"] = writes(folder, min(pairs, TWO), 2)
    if "train" in parts:
        result["train"] = trains(folder)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()
    parts = options.parts.split(",")
    if unknown := set(parts) - set(PARTS):
        parser.error(f"--parts has {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    with tempfile.TemporaryDirectory(prefix="agenttune-") as name:
        result = measure(Path(name), options.pairs, parts)
    print(json.dumps(result, indent=2))
    if options.record:
        RESULTS.parent.mkdir(exist_ok=True)
        before = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
        RESULTS.write_text(json.dumps(before | result, indent=2) + "\n")


if __name__ == "__main__":
    main()
