"""How soon a second start on the same data takes its first optimizer step: `agenttune train` against TRL's SFTTrainer.

`python benchmarks/first_step.py [--rows 1000000] [--starts 3]` writes so many short conversations, drawn by a seed from
the demo's, and starts both on them in turn, each a command of its own from beginning to end: a tiny model, one process,
rows of 512 tokens. Ours ends at the first line of metrics.jsonl, theirs at `on_step_end`. Both have seen the data once:
ours has its index, theirs its cache of tokenised and packed rows. Those first starts are told too, unless `--folder`
names one where an earlier run has left all that. `--record` writes medians and the pairs' ratios to
benchmarks/results/first_step.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

LENGTH, ROWS_PER_STEP, SEED = 512, 4, 1
DEMO = Path(__file__).parents[1] / "configs" / "demo"
RESULTS = Path(__file__).with_name("results") / "first_step.json"
STEPPED = "first step done"
_POLL = 0.002
"""Seconds between two looks at metrics.jsonl."""


def write_rows(file: Path, rows: int) -> None:
    """Short conversations of the demo, each with a number of its own in its question."""
    known = [json.loads(line)["messages"] for line in (DEMO / "general.jsonl").read_text().splitlines()]
    draw = random.Random(SEED)
    with file.open("w", encoding="utf-8") as out:
        for i in range(rows):
            messages = [dict(message) for message in draw.choice(known)]
            asked = next(message for message in messages if message["role"] == "user")
            asked["content"] = f"Case {i}, {draw.randrange(10**6)}: {asked['content']}"
            out.write(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")


def make_models(folder: Path, tokenizer: Path) -> None:
    """`model`, as init-model makes it, and `served`, the same weights with our chat template for transformers."""
    from tokenization.bundle import write_bundle
    from tokenization.encoder import Encoder
    from tokenization.templates.llama2 import LLAMA2

    model, served = folder / "model", folder / "served"
    command = [*_agenttune(), "init-model", str(model), "--shape", "tiny", "--tokenizer", str(tokenizer)]
    subprocess.run([*command, "--seed", str(SEED)], check=True, capture_output=True)
    served.mkdir()
    encoder = Encoder.from_folder(model, LLAMA2.special_tokens)
    write_bundle(model, served, LLAMA2, encoder, vocab=encoder.vocab_size, dtype="float32")
    for weights in model.glob("*.safetensors"):
        shutil.copyfile(weights, served / weights.name)


def our_start(folder: Path) -> float:
    """Seconds from the command to the first line of metrics.jsonl."""
    run = Path(tempfile.mkdtemp(dir=folder))
    settings = {
        "run": {"output_dir": str(run), "seed": SEED},
        "model": {"path": str(folder / "model"), "dtype": "float32"},
        "data": {
            "sequence_length": LENGTH,
            "sources": [{"name": "rows", "path": str(folder / "rows.jsonl"), "role": "general"}],
            "eta": 0,
            "cache_dir": str(folder / "cache"),
        },
        "batch": {"rows": ROWS_PER_STEP},
        "train": {"steps": 1},
        "checkpoint": {"resume": "never"},
        "wandb": {"mode": "disabled"},
    }
    config, metrics = run / "config.json", run / "metrics.jsonl"
    config.write_text(json.dumps(settings))  # JSON is YAML too
    with (run / "log").open("w") as log:
        begun = time.perf_counter()
        process = subprocess.Popen([*_agenttune(), "train", str(config)], stdout=log, stderr=log)
        while not (metrics.exists() and metrics.stat().st_size):
            if process.poll() is not None:
                raise RuntimeError((run / "log").read_text())
            time.sleep(_POLL)
        seconds = time.perf_counter() - begun
        process.wait()
    shutil.rmtree(run)
    return seconds


def their_start(folder: Path) -> float:
    """Seconds from the start of the script to the end of its first step."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hub")}
    with (folder / "log").open("w") as log:
        begun = time.perf_counter()
        command = [sys.executable, __file__, "--trl", str(folder)]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True)
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(STEPPED):
                seconds = time.perf_counter() - begun
                process.stdout.read()
                process.wait()
                return seconds
    raise RuntimeError((folder / "log").read_text())


def train_with_trl(folder: Path) -> None:
    """What a user of TRL runs; datasets keeps in its cache what it has made of the rows."""
    datasets: Any = import_module("datasets")
    transformers: Any = import_module("transformers")
    trl: Any = import_module("trl")

    class Tell(transformers.TrainerCallback):
        def on_step_end(self, *args: Any, **options: Any) -> None:
            print(STEPPED, flush=True)

    rows = datasets.load_dataset("json", data_files=str(folder / "rows.jsonl"), split="train")
    config = trl.SFTConfig(
        output_dir=str(folder / "trl"),
        max_length=LENGTH,
        packing=True,
        packing_strategy="bfd",
        assistant_only_loss=True,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=ROWS_PER_STEP,
        max_steps=1,
        seed=SEED,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    model = transformers.AutoModelForCausalLM.from_pretrained(folder / "served", dtype="float32")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "served")
    trl.SFTTrainer(
        model, args=config, train_dataset=rows, processing_class=tokenizer, callbacks=[Tell()]
    ).train()


def _agenttune() -> list[str]:
    return [str(Path(sys.executable).with_name("agenttune"))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--starts", type=int, default=3)
    parser.add_argument("--tokenizer", type=Path, default=DEMO / "tokenizer")
    parser.add_argument("--folder", type=Path, help="kept for later runs; by default one that is removed")
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--trl", type=Path, help=argparse.SUPPRESS)  # the other side's start, in FOLDER
    options = parser.parse_args()
    if options.trl:
        return train_with_trl(options.trl)
    with tempfile.TemporaryDirectory(prefix="agenttune-") as name:
        folder = options.folder or Path(name)
        result = measure(folder, options.tokenizer, options.rows, options.starts)
    print(json.dumps(result, indent=2))
    if options.record:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(result, indent=2) + "\n")


def measure(folder: Path, tokenizer: Path, rows: int, starts: int) -> dict[str, Any]:
    """A first start of each where the folder is new, then `starts` pairs of later ones."""
    file, firsts = folder / "rows.jsonl", folder / "first_starts.json"
    sides: dict[str, Callable[[Path], float]] = {"ours": our_start, "trl": their_start}
    if not firsts.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        write_rows(file, rows)
        make_models(folder, tokenizer)
        taken = {side: start(folder) for side, start in sides.items()}
        firsts.write_text(json.dumps({"rows": rows, "seconds": taken}))
    known: dict[str, Any] = json.loads(firsts.read_text())
    if known["rows"] != rows:
        raise ValueError(f"{folder} has {known['rows']:,} rows: --rows {known['rows']}, or another --folder")
    first: dict[str, float] = known["seconds"]
    for side, taken in first.items():
        print(f"{side}: first start {taken:.1f} s", file=sys.stderr)
    later: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(starts):
        for side, start in sides.items():
            later[side].append(start(folder))
            print(f"{side}: {later[side][-1]:.2f} s", file=sys.stderr)
    ratios = sorted(a / b for a, b in zip(later["ours"], later["trl"], strict=True))

    def told(side: str) -> dict[str, Any]:
        return {
            "first_start_seconds": round(first[side], 2),
            "second_start_seconds": round(statistics.median(later[side]), 2),
            "min": round(min(later[side]), 2),
            "max": round(max(later[side]), 2),
        }

    names = ("torch", "transformers", "tokenizers", "deepspeed", "megatron-core", "trl", "datasets")
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, python {platform.python_version()}",
        "versions": {name: version(name) for name in names},
        "rows": rows,
        "megabytes": round(file.stat().st_size / 1e6, 1),
        "starts": starts,
        "ours": told("ours"),
        "trl": told("trl"),
        "ratio": {
            "median": round(statistics.median(ratios), 3),
            "min": round(ratios[0], 3),
            "max": round(ratios[-1], 3),
        },
        "goal": "ratio at most 0.4",
    }


if __name__ == "__main__":
    main()
