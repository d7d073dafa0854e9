"""What can be found wrong before any rank starts. No torch here."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from configs.check import check_config, check_files
from configs.data_paths import local_files
from configs.errors import ConfigError
from configs.layout import Layout
from configs.schema import Config
from configs.shapes import ModelShape
from configs.weights import check_weights
from tokenization.builder import SampleBuilder
from tokenization.bundle import generation_config
from tokenization.errors import DataError
from trainer.checkpoint.choice import check_some_left, resume_folder
from trainer.checkpoint.progress import nothing_to_do, read_progress
from trainer.data.bad_rows import QUARANTINE, bad_row, counted, told
from trainer.data.epochs import known_steps
from trainer.data.held_out import open_held_out
from trainer.data.mixture import shares
from trainer.data.open import open_builder, open_data
from trainer.data.stream import RowStream
from trainer.output_lock import LOCK, lock_output

FIRST_ROWS = 1000
"""Rows of each source read before ranks start: some tenths of a second."""


def check_settings(config: Config, processes: int | None) -> tuple[Layout, SampleBuilder]:
    """The layout of a config that fits its model, tokenizer and number of processes, and the tokenizer with its
    template, which takes up to a second to open. Raises ConfigError."""
    check_files(config)  # its remedies for a missing folder are better than the readers' own
    shape = ModelShape.from_folder(config.model.path)
    builder = open_builder(config)
    try:
        generation_config(Path(config.model.path), builder.template, builder.encoder)  # a checkpoint needs it
    except ValueError as error:
        raise ConfigError(f"model.path={config.model.path}: {error}") from error
    # The model grows by the tokens that the template adds, but not by what is amiss with its folder.
    layout = check_config(config, shape, builder.encoder.own_size, processes)
    shares([(source.role, source.weight) for source in config.data.sources], config.data.eta)
    return layout, builder


def check_output(config: Config) -> None:
    """The run's folder can be made and written to, and no other job trains there. Raises ConfigError."""
    folder = Path(config.run.output_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(
            f"run.output_dir={folder}: cannot be written ({error.strerror}); name another folder or mend its rights"
        ) from error
    if (folder / LOCK).exists() and (held := lock_output(folder)) is not None:
        os.close(held)  # for the rank that is to hold it


def check_sources(config: Config, builder: SampleBuilder) -> RowStream:
    """Every source opens, has rows, and its first FIRST_ROWS in file order become samples, kept for training.

    Later rows are left to the ranks, which read each as it is drawn: data may be too much to read before. A source
    without a share is only opened. What evaluations look at is put together. Where bad rows are skipped, tells how many
    there are. Returns the stream at its beginning. Raises DataError, for too many bad rows too.
    """
    data = open_data(config, builder, first=True, workers=0)
    stream = data.stream(config)
    all_bad = 0
    for i, source in enumerate(data.sources):
        reasons: dict[str, int] = {}
        example = ""
        first = min(len(source), FIRST_ROWS) if stream.shares[i] else 0
        for row in range(first):
            try:
                stream.samples.of_row(i, row)
            except DataError as error:
                if config.data.on_error == "strict" or error.where is None:
                    raise
                reasons = counted(reasons, bad_row(source.name, error).reason)
                example = example or str(error)
        bad = sum(reasons.values())
        all_bad += bad
        if bad:
            said = f"source {source.name!r}: {bad} of the first {first} rows are bad ({told(reasons)}), as {example}"
            if all_bad > config.data.max_bad_rows:
                limit = f"data.max_bad_rows={config.data.max_bad_rows}"
                raise DataError(
                    f"{said}. More than {limit} in all: mend the data (agenttune lint names all), or raise it"
                )
            file = Path(config.run.output_dir) / QUARANTINE
            print(
                f"{said}. Training leaves out each that it draws, and tells it in {file} then; all bad rows, those "
                "further on too, are named by agenttune lint",
                file=sys.stderr,
            )
    if config.evaluation.every:
        open_held_out(config, data)
        for said in trained_too(config):
            print(said, file=sys.stderr)
    return stream


def check_start(config: Config, builder: SampleBuilder, model: str) -> str:
    """What a start needs beyond its settings: weights or a checkpoint that fits, room, rows that can be read.

    model: `model_digest` of the model's folder. Returns what is said where no step is left to take, else nothing.
    Raises ConfigError, DataError.
    """
    folder = resume_folder(config)
    if folder is None:
        check_weights(Path(config.model.path))
    check_output(config)
    stream = check_sources(config, builder)
    if folder is None:
        return ""
    progress = read_progress(folder, config, model)
    stream.check_cursor(progress.cursor, folder)
    steps = known_steps(config, stream, builder)
    check_some_left(config, folder, progress.step, steps)
    return nothing_to_do(progress.step, steps) or ""


def trained_too(config: Config) -> list[str]:
    """What is said of evaluation sources whose files are trained on as well."""
    trained = {
        os.path.realpath(file) for each in config.data.sources for file in local_files(each.path).files
    }
    return [
        f"evaluation source {source.name!r}: {shared[0]} is trained on too, so its loss is not of held-out data"
        for source in config.evaluation.sources
        if (shared := [file for file in local_files(source.path).files if os.path.realpath(file) in trained])
    ]
