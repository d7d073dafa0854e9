"""How fast the stream gives rows, tokenised for the first time and kept before, how soon it goes on, how full rows are.

`python benchmarks/stream.py AGENT GENERAL [GENERAL …] --tokenizer FOLDER [--pairs 7]` takes files of conversations, of
which the first is the agent source. All is measured in one process without workers, with rows of 4096 tokens:

first time  all conversations in rows, no sample and no word known, against the tokenizer alone on the texts of the same
            conversations, all in one `encode_batch_fast` or each in an `encode`; in turns, by clock and processor time
kept        rows of some 20,000 conversations (the given ones with other texts) that were tokenised before
restoring   opening the data and restoring a late cursor, with the samples kept and without
fill        the stream's rows, and rows of log-normal lengths, against best fit decreasing over all samples at once and
            TRL's packing of the same lengths

`--record` writes medians and ratios to benchmarks/results/stream.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

os.environ |= {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}

import numpy as np

from configs.schema import Config, DataConfig, ModelConfig, RunConfig, SourceConfig
from tokenization.segments import Text
from tokenization.tokenizer_files import read_tokenizer, with_prefix
from trainer.data.open import Data, open_builder, open_data
from trainer.data.packing import choose
from trainer.data.rows import PackedRow

# Installed by `make bench-data` alone, so the type checker does not always find them.
datasets: Any = import_module("datasets")
trl: Any = import_module("trl")

LENGTH, WINDOW, KEPT, LATE, SEED = 4096, 256, 20_000, 1000, 1
MEAN, SIGMA, SAMPLES = 400, 1.0, 20_000
"""Of the log-normal lengths, and how many there are."""
RESULTS = Path(__file__).with_name("results") / "stream.json"
_TEXTS = ("value", "content")
Row = dict[str, Any]


class Seconds(NamedTuple):
    clock: float
    processor: float

    @classmethod
    def now(cls) -> Seconds:
        return cls(time.perf_counter(), time.process_time())

    def since(self) -> Seconds:
        return Seconds(time.perf_counter() - self.clock, time.process_time() - self.processor)


def read(files: Sequence[Path]) -> list[Row]:
    rows: list[Row] = []
    for file in files:
        text = file.read_text(encoding="utf-8")
        rows += json.loads(text) if text.lstrip().startswith("[") else map(json.loads, text.splitlines())
    return rows


def varied(row: Row, i: int) -> Row:
    """The conversation with another id and another first question."""
    row = row | ({"id": f"{row['id']}-{i}"} if "id" in row else {})
    if "instruction" in row:
        return row | {"instruction": f"{row['instruction']} ({i})"}
    key = "conversations" if "conversations" in row else "messages"
    first, *others = row[key]
    text = next(name for name in _TEXTS if name in first)
    return row | {key: [first | {text: f"{first[text]} ({i})"}, *others]}


def write(rows: Sequence[Row], file: Path) -> Path:
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return file


def config_of(
    agent: Path | None, general: Sequence[Path], tokenizer: Path, cache: Path, eta: float
) -> Config:
    sources = [SourceConfig(file.stem, str(file), "general") for file in general]
    sources += [SourceConfig("agent", str(agent), "agent")] if agent else []
    data = DataConfig(
        template="chatml",
        sequence_length=LENGTH,
        sources=sources,
        eta=eta if agent else 0.0,
        pack_window=WINDOW,
        cache_dir=str(cache),
    )
    return Config(RunConfig(str(cache), SEED), ModelConfig(str(tokenizer)), data=data)


def fresh(config: Config) -> Data:
    """The data with a tokenizer that knows no word yet."""
    return open_data(config, open_builder(config), first=True, workers=0)


def first_time(rows: Sequence[Row], tokenizer: Path, folder: Path, pairs: int) -> dict[str, Any]:
    """A pass over all conversations, each turn with a store of its own, beside the tokenizer alone."""
    file = write(rows, folder / "all.jsonl")
    texts = _texts(fresh(config_of(None, [file], tokenizer, folder / "texts", 0)))
    ours: list[Seconds] = []
    alone: dict[str, list[Seconds]] = {"encode_batch_fast": [], "encode": []}
    tokens = ids = made = 0
    for turn in range(pairs):
        config = config_of(None, [file], tokenizer, folder / f"cache-{turn}", 0)
        data = fresh(config)
        stream = data.stream(config)
        begun = Seconds.now()
        while stream.seen(1) < 1:
            next(stream)
        ours.append(begun.since())
        tokens, made = _tokens(data), stream.state().row
        for name, times in alone.items():
            bare = with_prefix(read_tokenizer(tokenizer)[0], "never")
            bare.encode_special_tokens = True
            begun = Seconds.now()
            if name == "encode":
                ids = sum(len(bare.encode(text, add_special_tokens=False).ids) for text in texts)
            else:
                ids = sum(len(one.ids) for one in bare.encode_batch_fast(texts, add_special_tokens=False))
            times.append(begun.since())
    return {
        "conversations": len(rows),
        "rows": made,
        "stream": {"tokens": tokens} | _rates(tokens, ours),
        "tokenizer_alone": {
            "tokens": ids,
            "texts": len(texts),
            **{name: _rates(ids, times) for name, times in alone.items()},
        },
        "ratio": {name: _ratios(tokens, ours, ids, times) for name, times in alone.items()},
        "goal": "ratio at least 0.8",
    }


def _ratios(
    tokens: int, ours: Sequence[Seconds], ids: int, theirs: Sequence[Seconds]
) -> dict[str, dict[str, float]]:
    """Of our speed to theirs, by the clock and by processor time."""
    return {
        name: _spread([tokens * b[at] / (ids * a[at]) for a, b in zip(ours, theirs, strict=True)])
        for at, name in enumerate(Seconds._fields)
    }


def _texts(data: Data) -> list[str]:
    """What the tokenizer is given for all conversations of the one source."""
    builder, source = data.builder, data.sources[0]
    texts: list[str] = []
    for i in range(len(source)):
        row, where = source.row(i)
        asked = builder.conversation(row, format=source.format, where=where, default_id=str(i))
        segments = builder.template.render(asked, builder.encoder.control)
        texts += [segment.text for segment in segments if isinstance(segment, Text)]
    return texts


def _tokens(data: Data) -> int:
    """Of all samples that the first source's store holds."""
    found = map(data.stores[0].get, range(len(data.sources[0])))
    return sum(len(sample) for fitted in found if fitted for sample in fitted.samples)


def kept(rows: Sequence[Row], tokenizer: Path, folder: Path, turns: int) -> dict[str, Any]:
    """Rows of samples made before, then restoring at a late one."""
    file = write([varied(rows[i % len(rows)], i) for i in range(KEPT)], folder / "varied.jsonl")
    config = config_of(None, [file], tokenizer, folder / "kept", 0)
    data = fresh(config)
    samples = data.stream(config).samples
    for row in range(KEPT):
        samples.of_row(0, row)
    late = min(LATE, _tokens(data) // LENGTH - WINDOW)
    times: list[Seconds] = []
    tokens = 0
    cursor: dict[str, Any] = {}
    for _ in range(turns):
        stream = fresh(config).stream(config)
        begun = Seconds.now()
        tokens = sum(row.filled for row in islice(stream, late))
        times.append(begun.since())
        cursor = stream.cursor()
    restoring: dict[str, list[float]] = {"open": [], "restore_kept": [], "restore_not_kept": []}
    for _ in range(turns):
        begun = time.perf_counter()
        data = fresh(config)
        restoring["open"].append(time.perf_counter() - begun)
        for name, opened in (("restore_kept", data), ("restore_not_kept", replace(data, stores=[]))):
            stream = opened.stream(config)
            begun = time.perf_counter()
            stream.restore(cursor)
            restoring[name].append(time.perf_counter() - begun)
    return {
        "kept": {
            "conversations": KEPT,
            "rows": late,
            "tokens": tokens,
            **_rates(tokens, times),
            "goal": "at least 3 million tokens per second",
        },
        "restoring": {
            "row": late,
            **{f"{name}_seconds": _spread(seconds) for name, seconds in restoring.items()},
            "goal": "open and restore at most 1 s",
        },
    }


def fill_of_mixture(config: Config, rows: int) -> dict[str, Any]:
    """Of the stream's own rows, against what others make of the samples in them."""
    packed = list(islice(fresh(config).stream(config), rows))
    lengths = [length for row in packed for length in _lengths(row)]
    return {"eta": config.data.eta} | _told_fill(lengths, rows)


def _lengths(row: PackedRow) -> list[int]:
    starts = np.flatnonzero(row.positions[: row.filled] == 0)
    return np.diff(np.append(starts, row.filled)).tolist()


def fill_of_log_normal() -> dict[str, Any]:
    """Of rows chosen among WINDOW waiting samples, as the stream does it, as long as the window is full."""
    draw = np.random.default_rng(SEED).lognormal(np.log(MEAN) - SIGMA**2 / 2, SIGMA, SAMPLES)
    coming = iter(np.clip(draw, 1, LENGTH).astype(int).tolist())
    waiting: list[int] = []
    taken: list[int] = []
    rows = 0
    while len(waiting) + len(more := list(islice(coming, WINDOW - len(waiting)))) == WINDOW:
        waiting += more
        chosen = set(choose(waiting, LENGTH))
        taken += [waiting[i] for i in chosen]
        waiting = [length for i, length in enumerate(waiting) if i not in chosen]
        rows += 1
    return {"mean": MEAN, "sigma": SIGMA} | _told_fill(taken, rows)


def _told_fill(lengths: Sequence[int], rows: int) -> dict[str, Any]:
    table = datasets.Dataset.from_dict({"input_ids": [[0] * length for length in lengths]})
    theirs = trl.pack_dataset(table, LENGTH, "bfd")
    assert sum(map(sum, theirs["seq_lengths"])) == sum(lengths), "TRL has cut a sample"
    others = {"best_fit_decreasing": best_fit_decreasing(lengths, LENGTH), "trl_bfd": len(theirs)}
    return {
        "samples": len(lengths),
        "samples_per_row": round(len(lengths) / rows, 1),
        **{
            name: {"rows": count, "fill": round(sum(lengths) / count / LENGTH, 6)}
            for name, count in {"ours": rows, **others}.items()
        },
    }


def best_fit_decreasing(lengths: Sequence[int], capacity: int) -> int:
    """Rows needed where each sample, the longest first, goes into the fullest row that has room for it."""
    rows, rooms = 0, [0] * (capacity + 1)  # rooms[n]: rows with room for n more tokens
    has = 0  # bit n: there is one
    for length in sorted(lengths, reverse=True):
        fitting = has >> length
        room = (fitting & -fitting).bit_length() - 1 + length if fitting else capacity
        if fitting:
            rooms[room] -= 1
            has ^= (not rooms[room]) << room
        else:
            rows += 1
        rooms[room - length] += 1
        has |= 1 << (room - length)
    return rows


def _rates(tokens: int, times: Sequence[Seconds]) -> dict[str, int]:
    """Tokens a second, by the clock and by processor time; of the medians."""
    columns = zip(*times, strict=True)
    return {
        f"tokens_per_second_{name}": round(tokens / statistics.median(column))
        for name, column in zip(Seconds._fields, columns, strict=True)
    }


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), 4),
        "min": round(min(values), 4),
        "max": round(max(values), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, nargs="+", help="the first is the agent source")
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--eta", type=float, default=0.2)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--rows", type=int, default=1000, help="whose fill is measured")
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()
    datasets.disable_caching()
    datasets.disable_progress_bars()
    every = read(options.data)
    with tempfile.TemporaryDirectory(prefix="agenttune-") as name:
        folder = Path(name)
        agent, *general = options.data
        mixed = config_of(agent, general, options.tokenizer, folder / "mixed", options.eta)
        packages = ("tokenizers", "numpy", "trl", "datasets")
        result = {
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, python {platform.python_version()}",
            "versions": {package: version(package) for package in packages},
            "files": [file.name for file in options.data],
            "pairs": options.pairs,
            "first_time": first_time(every, options.tokenizer, folder, options.pairs),
            **kept(every, options.tokenizer, folder, options.pairs),
            "fill": {
                "mixture": fill_of_mixture(mixed, options.rows),
                "log_normal": fill_of_log_normal(),
                "goal": "ours at least 0.9995",
            },
        }
    print(json.dumps(result, indent=2))
    if options.record:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
