"""How fast conversations become packed rows with masks: ours against TRL's SFT preprocessing, one process each.

`python benchmarks/tokenise.py DATA [DATA …] --tokenizer FOLDER [--pairs 7]` takes JSON files of conversations and a
Llama tokenizer. Both sides begin with the same parsed messages in memory and end with rows of 4096 tokens and labels:
TRL by `SFTTrainer._prepare_dataset` (assistant_only_loss, packing bfd), with our ChatML template in Jinja. Ids and
masks are compared before anything is timed. The two take turns; each of our turns begins with no word known.
`--record` writes medians and the pairs' ratios to benchmarks/results/tokenise.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from importlib import import_module
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

os.environ |= {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}

import numpy as np
from transformers import AutoTokenizer

from tokenization.builder import SampleBuilder
from tokenization.bundle import write_bundle
from tokenization.encoder import Encoder
from tokenization.errors import Where
from tokenization.sample import TokenizedSample
from tokenization.templates.chatml import CHATML
from trainer.data.packing import choose, pack_row
from trainer.data.rows import IGNORED, PackedRow

# Installed by `make bench-data` alone, so the type checker does not always find them.
datasets: Any = import_module("datasets")
trl: Any = import_module("trl")

LENGTH, WINDOW = 4096, 256
RESULTS = Path(__file__).with_name("results") / "tokenise.json"
Row = dict[str, Any]
_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}


class Side(NamedTuple):
    seconds: float
    rows: int


def conversations(files: list[Path]) -> list[Row]:
    """Rows of plain text as `messages`: what both sides read without a difference. Others are left out."""
    found: list[Row] = []
    for file in files:
        text = file.read_text(encoding="utf-8")
        rows = json.loads(text) if text.lstrip().startswith("[") else map(json.loads, text.splitlines())
        for row in rows:
            if "instruction" in row:
                asked = "\n".join(filter(None, (row["instruction"], row.get("input"))))
                said = [("user", asked), ("assistant", row["output"])]
            else:
                listed = row.get("conversations") or row["messages"]
                said = [(m.get("from") or m["role"], m.get("value") or m.get("content")) for m in listed]
            if all(role in _ROLES and content for role, content in said):
                found.append({"messages": [{"role": _ROLES[role], "content": text} for role, text in said]})
    return found


def our_samples(builder: SampleBuilder, rows: list[Row]) -> list[TokenizedSample]:
    where = Where("memory", 1)
    return [
        builder.build(row, source="s", format="auto", where=where, default_id=str(i))
        for i, row in enumerate(rows)
    ]


def our_rows(builder: SampleBuilder, rows: list[Row]) -> list[PackedRow]:
    """Samples packed as the stream packs them: WINDOW samples wait, the oldest leads."""
    made = iter(our_samples(builder, rows))
    waiting: list[TokenizedSample] = []
    packed: list[PackedRow] = []
    while True:
        waiting += islice(made, WINDOW - len(waiting))
        if not waiting:
            return packed
        chosen = choose([len(sample) for sample in waiting], LENGTH)
        taken = [waiting[i] for i in chosen]
        packed.append(pack_row(taken, [0] * len(taken), index=len(packed), length=LENGTH, pad_id=0))
        gone = set(chosen)
        waiting = [sample for i, sample in enumerate(waiting) if i not in gone]


def their_rows(tokenizer: Any, rows: Any, folder: Path, packing: bool) -> Any:
    """TRL's own preparation, without the trainer and its model around it."""
    config = trl.SFTConfig(
        output_dir=str(folder),
        max_length=LENGTH,
        packing=packing,
        packing_strategy="bfd",
        assistant_only_loss=True,
        shuffle_dataset=False,
        use_cpu=True,
        bf16=False,
        report_to="none",
    )
    trainer = SimpleNamespace(
        chat_template=tokenizer.chat_template, completion_only_loss=False, _tokenizer=tokenizer
    )
    return trl.SFTTrainer._prepare_dataset(trainer, rows, tokenizer, config, packing, None, "train")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, nargs="+")
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()
    datasets.disable_caching()
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as name:
        result = measure(options.data, options.tokenizer, options.pairs, Path(name))
    print(json.dumps(result, indent=2))
    if options.record:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(result, indent=2) + "\n")


def measure(files: list[Path], source: Path, pairs: int, folder: Path) -> dict[str, Any]:
    """Both sides' ids compared, then `pairs` pairs of timings."""
    model = folder / "model"
    model.mkdir()
    for file in source.iterdir() if source.is_dir() else [source]:
        (model / file.name).write_bytes(file.read_bytes())
    (model / "config.json").write_text("{}")

    def builder() -> SampleBuilder:
        return SampleBuilder(Encoder.from_folder(source, CHATML.special_tokens), CHATML)

    first = builder()
    served = folder / "served"
    served.mkdir()
    write_bundle(model, served, CHATML, first.encoder, vocab=first.encoder.vocab_size, dtype="float32")
    tokenizer = AutoTokenizer.from_pretrained(served)
    every = conversations(files)
    samples = our_samples(first, every)
    fits = [len(sample) <= LENGTH for sample in samples]
    rows = [row for row, fit in zip(every, fits, strict=True) if fit]
    samples = [sample for sample, fit in zip(samples, fits, strict=True) if fit]
    theirs = their_rows(tokenizer, datasets.Dataset.from_list(rows), folder, packing=False)
    for sample, other in zip(samples, theirs, strict=True):
        assert sample.tokens.tolist() == other["input_ids"], "ids differ"
        assert np.where(sample.trained, sample.tokens, IGNORED).tolist() == other["labels"], "masks differ"
    tokens = sum(map(len, samples))
    ours: list[Side] = []
    trl: list[Side] = []
    for _ in range(pairs):
        fresh = builder()
        begun = time.perf_counter()
        packed = our_rows(fresh, rows)
        ours.append(Side(time.perf_counter() - begun, len(packed)))
        table = datasets.Dataset.from_list(rows)
        begun = time.perf_counter()
        made = their_rows(tokenizer, table, folder, packing=True)
        trl.append(Side(time.perf_counter() - begun, len(made)))
    ratios = sorted(b.seconds / a.seconds for a, b in zip(ours, trl, strict=True))

    def told(sides: list[Side]) -> dict[str, Any]:
        seconds = statistics.median(side.seconds for side in sides)
        return {
            "seconds": round(seconds, 3),
            "tokens_per_second": round(tokens / seconds),
            "rows": sides[0].rows,
            "fill": round(tokens / sides[0].rows / LENGTH, 5),
        }

    names = ("torch", "transformers", "tokenizers", "trl", "datasets")
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, python {platform.python_version()}",
        "versions": {name: version(name) for name in names},
        "files": [file.name for file in files],
        "conversations": len(rows),
        "left_out": len(every) - len(rows),
        "tokens": tokens,
        "targets": sum(sample.targets for sample in samples),
        "ids_and_masks": "identical",
        "pairs": pairs,
        "ours": told(ours),
        "trl": told(trl),
        "ratio": {
            "median": round(statistics.median(ratios), 2),
            "min": round(ratios[0], 2),
            "max": round(ratios[-1], 2),
        },
    }


if __name__ == "__main__":
    main()
