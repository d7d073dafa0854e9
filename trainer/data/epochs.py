"""How many rows so many passes over the data make."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path

from tqdm import tqdm

from configs.schema import Config
from tokenization.builder import SampleBuilder
from trainer.data.open import Data, cache_folder
from trainer.data.stream import RowStream


def rows_of_epochs(config: Config, data: Data, epochs: float, working: Callable[[], None]) -> int:
    """Rows of a run that shows every source with a share at least `epochs` times; the number is kept for later
    starts.

    `working` is called now and then.
    """
    stream = data.stream(config)
    file = _file(config, stream, data.builder, epochs)
    known = _read(file)
    if known is not None:
        return known
    with tqdm(
        total=1.0,
        desc=f"counting the rows of {epochs:g} epochs",
        bar_format="{desc} {percentage:3.0f}% {bar:20} {elapsed}<{remaining}",
        delay=2,
        mininterval=0.5 if sys.stderr.isatty() else 30,
    ) as bar:

        def show(part: float) -> None:
            bar.update(part - bar.n)
            working()

        rows = count_rows(stream, epochs, show)
    _write(file, rows)
    return rows


def known_steps(config: Config, stream: RowStream, builder: SampleBuilder) -> int | None:
    """Optimizer steps of the run as far as it costs nothing: train.steps, or train.epochs where they were counted
    before for the same data and settings, else None. Of the stream only its identity is used."""
    if config.train.epochs is None:
        return config.train.steps
    rows = _read(_file(config, stream, builder, config.train.epochs))
    return None if rows is None else -(-rows // config.batch.rows)


def count_rows(stream: RowStream, epochs: float, show: Callable[[float], None] = lambda part: None) -> int:
    """Rows until every source with a share has been seen `epochs` times. Uses a fresh stream up to there.

    `show` is told now and then which part of the way is behind, 0 to 1.
    """
    rows = 0
    while (part := stream.seen(epochs)) < 1:
        next(stream)
        rows += 1
        if rows % 64 == 0:
            show(part)
    return rows


def _file(config: Config, stream: RowStream, builder: SampleBuilder, epochs: float) -> Path:
    """Where the number of rows is kept, named after all that it follows from."""
    key = json.dumps([stream.identity, builder.fingerprint, config.data.on_error, epochs])
    return cache_folder(config) / "epochs" / f"{blake2b(key.encode(), digest_size=12).hexdigest()}.json"


def _read(file: Path) -> int | None:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))["rows"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return value if isinstance(value, int) else None


def _write(file: Path, rows: int) -> None:
    aside = file.with_suffix(".partial")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(json.dumps({"rows": rows}), encoding="utf-8")
        aside.rename(file)
    except OSError:
        pass  # it is counted again next time
