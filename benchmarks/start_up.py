"""How soon `agenttune train configs/demo.yaml` takes its first step on four CPU ranks, and what the time is spent on.

`python benchmarks/start_up.py [--starts 5]` starts the demo, two tensor ranks x two stages, so many times, each a
command of its own with nothing kept but its model, until the line that tells of the first step. `--record` writes the
seconds and the median of each phase to benchmarks/results/start_up.json.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).with_name("results") / "start_up.json"
PHASES = "start.json"


def start(folder: Path) -> dict[str, float]:
    """Seconds by phase of one start; `first step seen` is when this process saw it, after the command's beginning."""
    shutil.rmtree(folder / "run", ignore_errors=True)
    command = [sys.executable, "-m", "launch.cli", "train", str(ROOT / "configs/demo.yaml")]
    begun = time.monotonic()
    with subprocess.Popen(
        [*command, f"model.path={folder / 'model'}", f"run.output_dir={folder / 'run'}"],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr
        line = next(line for line in process.stderr if re.match(r"first step [\d.]+ s after", line))
        seen = time.monotonic() - begun
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT)
        process.stderr.read()
    print(line, end="")
    phases = json.loads((folder / "run" / PHASES).read_text())
    return phases | {"first step seen": seen}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--starts", type=int, default=5)
    parser.add_argument("--record", action="store_true")
    values = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make = ["init-model", f"{folder}/model", "--shape", "tiny", "--tokenizer", "configs/demo/tokenizer"]
        subprocess.run([sys.executable, "-m", "launch.cli", *make], cwd=ROOT, check=True, capture_output=True)
        starts = [start(Path(folder)) for _ in range(values.starts)]
    medians = {name: round(statistics.median(s[name] for s in starts), 2) for name in starts[0]}
    seen = [round(s["first step seen"], 2) for s in starts]
    print(json.dumps({"median seconds": medians, "first step seen": seen}, indent=2))
    if values.record:
        versions = {name: version(name) for name in ("torch", "deepspeed", "megatron-core", "transformers")}
        machine = f"{psutil.cpu_count()} cores, {platform.machine()}"
        told = {"machine": machine, "versions": versions, "median seconds": medians, "first step seen": seen}
        RESULTS.write_text(json.dumps(told, indent=2) + "\n")


if __name__ == "__main__":
    main()
