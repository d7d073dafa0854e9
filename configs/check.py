"""Whether a config can work, found before any process starts: one line with value, limit and remedy.

Four tables of rules (numbers, sources and files, products, limits) are gone through in turn, and the first
that is broken is raised. What a value may be by its type is already settled by `configs.load`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import gcd, inf, isfinite
from pathlib import Path
from typing import Any

from configs.data_paths import hub_data_set, local_files
from configs.errors import ConfigError
from configs.layout import Layout, resolve_layout
from configs.schema import Config, SourceConfig
from configs.shapes import ModelShape


def check_config(
    config: Config, shape: ModelShape, tokenizer_vocab: int | None, processes: int | None
) -> Layout:
    """The layout of a config that can work; ConfigError otherwise.

    tokenizer_vocab is the number of ids the tokenizer can give, those that a template adds not counted, processes the
    number of ranks; None skips the checks that need them.
    """
    check_numbers(config)
    check_files(config)
    return check_layout(config, shape, tokenizer_vocab, processes)


def check_layout(
    config: Config, shape: ModelShape, tokenizer_vocab: int | None, processes: int | None
) -> Layout:
    """The part of `check_config` that needs no files: the model is divided evenly, and its limits are kept."""
    layout = resolve_layout(config, processes)
    _check_processes(layout, processes)
    for division in _divisions(config, shape, layout):
        division.check()
    for limit in _limits(config, shape, layout, tokenizer_vocab):
        limit.check()
    _check_schedule(config, shape, layout)
    return layout


@dataclass(frozen=True)
class Bound:
    """The numbers a key takes: from `low` to `high`, ends included unless open."""

    key: str
    low: float
    high: float = inf
    low_open: bool = False
    high_open: bool = False

    def __str__(self) -> str:
        low = f"more than {self.low:g}" if self.low_open else f"at least {self.low:g}"
        high = f" and {'less than' if self.high_open else 'at most'} {self.high:g}" if self.high < inf else ""
        return low + high

    def holds(self, value: float) -> bool:
        above = value > self.low if self.low_open else value >= self.low
        return isfinite(value) and above and (value < self.high if self.high_open else value <= self.high)


_COUNTS = (
    *("parallel.tensor", "parallel.pipeline", "parallel.data", "data.sequence_length", "data.pack_window"),
    *("batch.rows", "batch.micro_rows", "train.steps", "checkpoint.every", "checkpoint.keep"),
    "train.layer_norms_every",
    *("guard.window", "guard.patience", "evaluation.every", "evaluation.rows"),
)
BOUNDS = (
    *(Bound(key, 1) for key in _COUNTS),
    *(Bound(key, 0, low_open=True) for key in ("train.epochs", "optimizer.lr", "optimizer.eps")),
    *(Bound(key, 1, low_open=True) for key in ("guard.loss", "guard.gradient")),
    Bound("run.hang_seconds", 0, 1e7, low_open=True),
    Bound("wandb.finish_seconds", 0, 1e7),
    *(Bound(key, 0) for key in ("run.seed", "optimizer.weight_decay", "optimizer.clip")),
    *(Bound(key, 0) for key in ("data.max_bad_rows", "data.workers")),
    *(Bound(key, 0, 1) for key in ("data.eta", "optimizer.warmup_ratio", "optimizer.min_lr_ratio")),
    Bound("evaluation.held_out", 0, 1, high_open=True),
    Bound("optimizer.betas", 0, 1, high_open=True),
)


def check_numbers(config: Config) -> None:
    """Numbers in their ranges, folders with a name, and exactly one way to end. Raises ConfigError."""
    _check_words(config)
    if config.parallel.data != "auto" and isinstance(config.parallel.data, str):
        raise ConfigError(
            f"parallel.data={config.parallel.data}: must be a whole number or auto; set parallel.data=auto"
        )
    for bound in BOUNDS:
        for value in _numbers(config, bound.key):
            if not bound.holds(value):
                raise ConfigError(f"{bound.key}={value}: must be {bound}; set {bound.key} in that range")
    steps, epochs = config.train.steps, config.train.epochs
    if (steps is None) == (epochs is None):
        given = "neither" if steps is None else "both"
        raise ConfigError(
            f"train.steps={steps or 'null'}, train.epochs={epochs or 'null'}: {given} given, "
            "exactly 1 needed; set one and leave the other null"
        )


def _check_words(config: Config) -> None:
    """An empty path would be the working directory."""
    paths = (
        ("run.output_dir", config.run.output_dir, "runs/mine"),
        ("model.path", config.model.path, "models/llama"),
    )
    for key, value, example in paths:
        if not value.strip():
            raise ConfigError(f"{key}={value!r}: must name a folder, {example} for example")


def check_sources(sources: Sequence[SourceConfig]) -> None:
    """There are some, each with a name of its own and a weight. Raises ConfigError."""
    if not sources:
        raise ConfigError("data.sources=[]: at least 1 source needed; add one with name, path and role")
    _check_names("data.sources", sources)


def check_evaluation(config: Config) -> None:
    """What an evaluation looks at is said, and once. Raises ConfigError."""
    wanted = config.evaluation
    _check_names("evaluation.sources", wanted.sources)
    if wanted.sources and wanted.held_out:
        raise ConfigError(
            f"evaluation.held_out={wanted.held_out:g}: {len(wanted.sources)} evaluation.sources are looked at instead, "
            "and only 1 of the two can be; set it to 0, or remove the sources"
        )
    if wanted.every and not wanted.sources and not wanted.held_out:
        raise ConfigError(
            f"evaluation.every={wanted.every}: 0 rows to look at; set evaluation.held_out to a share such as 0.02, or "
            "add evaluation.sources"
        )


def _check_names(keys: str, sources: Sequence[SourceConfig]) -> None:
    names = [source.name for source in sources]
    for index, source in enumerate(sources):
        key = f"{keys}.{index}"
        if source.name in names[:index]:
            raise ConfigError(
                f"{key}.name={source.name}: {names.count(source.name)} sources of this name, "
                "at most 1 allowed; rename one"
            )
        if not Bound("", 0, low_open=True).holds(source.weight):
            raise ConfigError(
                f"{key}.weight={source.weight}: must be more than 0; raise it or remove the source"
            )


def check_files(config: Config) -> None:
    """Sources and model folder are there, its weights apart: a run that goes on reads those of its checkpoint.

    Raises ConfigError.
    """
    check_sources(config.data.sources)
    check_evaluation(config)
    for key, source in [
        *((f"data.sources.{index}", source) for index, source in enumerate(config.data.sources)),
        *((f"evaluation.sources.{index}", source) for index, source in enumerate(config.evaluation.sources)),
    ]:
        found = local_files(source.path)
        if found.held_out and not found.files:
            raise ConfigError(
                f"{key}.path={source.path}: all {len(found.held_out)} files are test or validation splits by name; "
                f"name those to train on by a glob, such as {source.path}/*{Path(found.held_out[0]).suffix}"
            )
        if not found.files and (Path(source.path).exists() or hub_data_set(source.path) is None):
            kinds = " (of a folder *.parquet, *.jsonl and *.json)" if Path(source.path).is_dir() else ""
            raise ConfigError(
                f"{key}.path={source.path}: 0 files match{kinds}, at least 1 needed; "
                "correct the path, which is read from the working directory"
            )
    _check_model_folder(config.model.path)
    resume = config.checkpoint.resume
    checkpoints = Path(config.run.output_dir).resolve() / "checkpoints"
    if resume == "never" and Path(config.model.path).resolve().is_relative_to(checkpoints):
        raise ConfigError(
            f"model.path={config.model.path} would be put aside by checkpoint.resume=never, which begins anew in its "
            f"place: set run.output_dir to another folder than {config.run.output_dir}"
        )


def _check_model_folder(path: str) -> None:
    needed = {
        "no such folder": Path(path).is_dir(),
        "no config.json in it": (Path(path) / "config.json").is_file(),
    }
    for fault, passed in needed.items():
        if not passed:
            raise ConfigError(
                f"model.path={path}: {fault}; must be a Hugging Face folder: "
                "download one, or make one with agenttune init-model"
            )


def _check_processes(layout: Layout, processes: int | None) -> None:
    if processes is None or layout.world_size == processes:
        return
    copy = layout.tensor * layout.pipeline
    remedy = (
        f"start {layout.world_size} processes or change parallel.tensor, parallel.pipeline or parallel.data"
    )
    if processes % copy:
        limit = f"must be a multiple of tensor {layout.tensor} x pipeline {layout.pipeline} = {copy}"
    else:
        limit = f"must equal {layout} = {layout.world_size}"
    raise ConfigError(f"processes={processes}: {limit}; {remedy}")


@dataclass(frozen=True)
class Division:
    """`divisor` must divide `value`."""

    value: int
    value_name: str
    divisor: int
    divisor_name: str
    remedy: str

    def check(self) -> None:
        if self.value % self.divisor:
            raise ConfigError(
                f"{self.divisor_name}={self.divisor}: must divide {self.value_name} ({self.value}); "
                f"{self.remedy}"
            )


def _divisions(config: Config, shape: ModelShape, layout: Layout) -> Iterator[Division]:
    common = gcd(shape.heads, shape.kv_heads, shape.intermediate)
    sizes = ", ".join(str(size) for size in range(1, common + 1) if common % size == 0)
    split = (layout.tensor, "parallel.tensor", f"set parallel.tensor to one of {sizes}")
    yield Division(shape.heads, "the attention heads", *split)
    yield Division(shape.kv_heads, "the key-value heads", *split)
    yield Division(shape.intermediate, "the intermediate size", *split)
    rows, step = config.batch.rows, layout.data * config.batch.micro_rows
    multiple = max(1, round(rows / step)) * step
    yield Division(
        rows,
        "batch.rows",
        step,
        f"data {layout.data} x batch.micro_rows {config.batch.micro_rows}",
        f"set batch.rows to a multiple of {step} such as {multiple}",
    )
    if layout.sequence:
        length = config.data.sequence_length
        yield Division(
            length,
            "data.sequence_length",
            layout.tensor,
            "parallel.tensor",
            f"set data.sequence_length={max(1, length // layout.tensor) * layout.tensor} "
            "or parallel.sequence=false",
        )


@dataclass(frozen=True)
class Limit:
    """`value` may be at most `high`."""

    value: int
    value_name: str
    high: int
    high_name: str
    remedy: str

    def check(self) -> None:
        if self.value > self.high:
            raise ConfigError(
                f"{self.value_name}={self.value}: at most {self.high_name} ({self.high}); {self.remedy}"
            )


def _check_schedule(config: Config, shape: ModelShape, layout: Layout) -> None:
    """What DualPipeV needs beside what every schedule does. Raises ConfigError."""
    if layout.schedule != "dualpipev":
        return
    given = f"parallel.schedule=dualpipev with parallel.pipeline={layout.pipeline}"
    if layout.pipeline == 1:
        raise ConfigError(
            f"{given}: at least 2 needed; set parallel.schedule=1f1b or a larger parallel.pipeline"
        )
    if shape.layers < layout.parts:
        fitting = f"parallel.pipeline={shape.layers // 2} or less, or " if shape.layers >= 4 else ""
        raise ConfigError(
            f"{given}: 2 parts for each rank = {layout.parts}, at most the model's layers ({shape.layers}); "
            f"set {fitting}parallel.schedule=1f1b"
        )
    micro_batches, least = layout.micro_batches(config.batch), layout.least_micro_batches
    if micro_batches < least:
        rows = least * layout.data * config.batch.micro_rows
        raise ConfigError(
            f"{given}: {micro_batches} micro-batches of each copy of the model, at least 2 x pipeline = {least} "
            f"needed; set batch.rows={rows} or more, a smaller batch.micro_rows, or parallel.schedule=1f1b"
        )


def _limits(
    config: Config, shape: ModelShape, layout: Layout, tokenizer_vocab: int | None
) -> Iterator[Limit]:
    yield Limit(
        layout.pipeline,
        "parallel.pipeline",
        shape.layers,
        "the model's layers",
        f"set parallel.pipeline={shape.layers} or less",
    )
    yield Limit(
        config.data.sequence_length,
        "data.sequence_length",
        shape.max_positions,
        "the model's positions",
        f"set data.sequence_length={shape.max_positions} or less",
    )
    if tokenizer_vocab is not None:
        yield Limit(
            tokenizer_vocab,
            "tokenizer vocabulary",
            shape.vocab,
            "the model's vocabulary",
            f"use the tokenizer that {config.model.path} was trained with",
        )


def _numbers(config: Config, key: str) -> tuple[float, ...]:
    """The numbers under a key: none where it is null or a word, several in a list."""
    section, _, name = key.partition(".")
    value: Any = getattr(getattr(config, section), name)
    values = value if isinstance(value, list | tuple) else (value,)
    return tuple(number for number in values if isinstance(number, int | float))
