"""How soon a large file gives its first row, and whether memory stays where it is while rows are taken from it.

`python benchmarks/memory.py [--gigabytes 5] [--rows 3000]` writes a JSONL of that size (a block of the demo's
conversations, each with numbers of its own, over and over) and reads it in processes of their own, without workers:
the time from a process's start to its first row of 4096 tokens, with the file's index yet to be made and with it there,
and the resident memory every hundred rows, where samples are kept, read from what was kept, and not kept. It must stay
within 50 MB after the first 300 rows. `--record` writes all to benchmarks/results/memory.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import psutil

LENGTH, EVERY, SETTLED, FLAT, SEED = 4096, 100, 300, 50.0, 1
"""Tokens a row, rows between two looks, rows until memory has settled, MB it may move after."""
BLOCK = 32 << 20
SPARE = 2.0
"""Times the file's size that must be free on the disk: its index and the samples lie beside it."""
_ASKED = re.compile(rb'"(?:from|role)": "(?:user|human)",.*?"(?:value|content)": "')
"""What stands before a conversation's first question."""
DEMO = Path(__file__).parents[1] / "configs" / "demo"
RESULTS = Path(__file__).with_name("results") / "memory.json"


def write_file(file: Path, size: int) -> None:
    """At least `size` bytes of rows, brought to the disk and out of the system's memory."""
    known = [
        line for name in ("agent", "general") for line in (DEMO / f"{name}.jsonl").read_bytes().splitlines()
    ]
    draw = random.Random(SEED)
    block = bytearray()
    while len(block) < BLOCK:
        line = draw.choice(known)
        asked = _ASKED.search(line)
        assert asked, line
        block += line[: asked.end()] + b"Case %d: " % draw.randrange(10**6) + line[asked.end() :] + b"\n"
    with file.open("wb") as out:
        while out.tell() < size:
            out.write(block)
        out.flush()
        os.fsync(out.fileno())
        os.posix_fadvise(out.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_rows(folder: Path, tokenizer: Path, rows: int, keep: bool) -> dict[str, Any]:
    """In a process of its own: seconds from its start to the first row, and MB resident every EVERY rows."""
    from configs.schema import Config, DataConfig, ModelConfig, RunConfig, SourceConfig
    from trainer.data.open import open_builder, open_data

    sources = [SourceConfig("large", str(folder / "large.jsonl"), "general")]
    data = DataConfig(
        template="chatml", sequence_length=LENGTH, sources=sources, eta=0.0, cache_dir=str(folder / "cache")
    )
    config = Config(RunConfig(str(folder)), ModelConfig(str(tokenizer)), data=data)
    opened = open_data(config, open_builder(config), first=True, workers=0)
    stream = (opened if keep else replace(opened, stores=[])).stream(config)
    process = psutil.Process()
    next(stream)
    first = time.time() - process.create_time()
    resident: list[float] = []
    for _ in range(rows // EVERY):
        for _ in islice(stream, EVERY):
            pass
        resident.append(round(process.memory_info().rss / 1e6, 1))
    return {"rows_of_file": len(opened.sources[0]), "first_row_seconds": first, "resident": resident}


def measure(folder: Path, tokenizer: Path, gigabytes: float, rows: int) -> dict[str, Any]:
    free = shutil.disk_usage(folder).free
    if free < gigabytes * 1e9 * SPARE:
        raise SystemExit(f"{folder} has {free / 1e9:.0f} GB free: {gigabytes * SPARE:g} GB are needed")
    file = folder / "large.jsonl"
    write_file(file, int(gigabytes * 1e9))

    def start(rows: int, *flags: str) -> dict[str, Any]:
        command = [sys.executable, __file__, "--child", str(folder), "--rows", str(rows), *flags]
        asked = [*command, "--tokenizer", str(tokenizer)]
        return json.loads(subprocess.run(asked, check=True, capture_output=True, text=True).stdout)

    first, second = start(0), start(0)
    taken = {
        "samples_being_kept": start(rows),
        "samples_kept_before": start(rows),
        "samples_not_kept": start(rows, "--no-store"),
    }
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, python {platform.python_version()}",
        "versions": {name: version(name) for name in ("tokenizers", "numpy", "psutil")},
        "gigabytes": round(file.stat().st_size / 1e9, 2),
        "rows_of_file": first["rows_of_file"],
        "first_row_seconds": {
            "first_start": round(first["first_row_seconds"], 2),
            "second_start": round(second["first_row_seconds"], 2),
        },
        "rows": rows,
        "megabytes_resident": {name: _memory(made["resident"]) for name, made in taken.items()},
        "goal": f"at most {FLAT:g} MB between lowest and highest after {SETTLED} rows",
    }


def _memory(resident: list[float]) -> dict[str, Any]:
    settled = resident[SETTLED // EVERY - 1 :]
    spread = max(settled) - min(settled)
    return {
        f"after_{SETTLED}_rows": settled[0],
        "at_the_end": settled[-1],
        "highest": max(settled),
        "spread": round(spread, 1),
        "flat": spread <= FLAT,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=5.0)
    parser.add_argument("--rows", type=int, default=3000)
    parser.add_argument("--tokenizer", type=Path, default=DEMO / "tokenizer")
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)  # reads the rows of FOLDER
    parser.add_argument("--no-store", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        made = read_rows(options.child, options.tokenizer, options.rows, not options.no_store)
        return print(json.dumps(made))
    if options.rows < SETTLED:
        parser.error(f"--rows {options.rows}: memory is looked at after {SETTLED}")
    with tempfile.TemporaryDirectory(prefix="agenttune-") as name:
        result = measure(Path(name), options.tokenizer.resolve(), options.gigabytes, options.rows)
    print(json.dumps(result, indent=2))
    if options.record:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
