"""A config's data: its tokenizer, its sources and its stream of rows. Shared by training and preview; no torch."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path

from configs.errors import ConfigError
from configs.schema import Config
from tokenization.builder import SampleBuilder
from tokenization.control_text import settle
from tokenization.conversation import Conversation, Message
from tokenization.segments import RenderError
from tokenization.templates import open_template
from trainer.data.notices import tell_once
from trainer.data.position import Position
from trainer.data.sample_store import SampleStore, store_folder
from trainer.data.sources import Source, open_source
from trainer.data.stream import RowStream


def open_builder(config: Config) -> SampleBuilder:
    """What turns the config's rows of data into samples. Raises ConfigError without a usable tokenizer."""
    path = config.model.path
    if not Path(path).exists():
        raise ConfigError(
            f"model.path={path}: no such folder; download the model, or make one: "
            f"agenttune init-model {path} --shape tiny --tokenizer DIR"
        )
    try:
        template, encoder = open_template(config.data.template, Path(path))
    except ValueError as error:
        raise ConfigError(f"model.path={path}: {error}") from error
    builder = SampleBuilder(encoder, template, config.data.system_prompt, config.data.control_text)
    if config.data.system_prompt is not None:
        asked = Conversation("", (Message("system", config.data.system_prompt), Message("user", "")))
        try:
            settle(asked, template.control_text, config.data.control_text)
        except RenderError as error:
            raise ConfigError(f"data.system_prompt={config.data.system_prompt[:60]!r}: {error}") from None
    return builder


def cache_folder(config: Config) -> Path:
    """Where the indexes and the tokenised samples of a run lie."""
    return Path(config.data.cache_dir or Path(config.run.output_dir) / "data_cache")


def open_sources(config: Config, cache: Path | None = None) -> list[Source]:
    """The sources in the config's order. Raises DataError for one that is empty or cannot be read.

    cache: where indexes of files are looked for and kept; by default the run's own folder, where there is one already.
    """
    if cache is None and cache_folder(config).is_dir():
        cache = cache_folder(config)
    return [open_source(source, cache) for source in config.data.sources]


def open_stream(config: Config, builder: SampleBuilder | None = None) -> RowStream:
    """The run's rows from their beginning, nothing kept and nobody working ahead: for looking at them.

    A `builder` that is there already is used instead of a new one. Raises ConfigError or DataError.
    """
    builder = builder or open_builder(config)
    return RowStream(
        open_sources(config),
        builder,
        config.data,
        config.run.seed,
        builder.encoder.pad_id,
        held_out=config.evaluation.held_out,
    )


@dataclass(frozen=True)
class Data:
    """A run's data, opened."""

    builder: SampleBuilder
    sources: list[Source]
    stores: list[SampleStore]
    """Of the sources, in their order; none where they cannot be kept."""
    position: Position | None
    """None where nobody works ahead."""

    def stream(self, config: Config) -> RowStream:
        """A stream at its beginning."""
        return RowStream(
            self.sources,
            self.builder,
            config.data,
            config.run.seed,
            self.builder.encoder.pad_id,
            self.stores,
            self.position,
            config.evaluation.held_out,
        )


def open_data(config: Config, builder: SampleBuilder, *, first: bool, workers: int) -> Data:
    """Sources and what is kept of their samples, for training.

    first:   this is the first rank of its host, which keeps samples and tells workers how far it is; the others read
    workers: that will work ahead on this host
    Raises ConfigError or DataError.
    """
    cache = cache_folder(config)
    sources = open_sources(config, cache)
    try:
        stores = [
            SampleStore(store_folder(cache, _made_from(config, builder, source)), source.name, writes=first)
            for source in sources
        ]
    except OSError as error:
        tell_once(f"data.cache_dir={cache}: tokenised samples are not kept there ({error.strerror})")
        return Data(builder, sources, [], None)
    place = blake2b(str(Path(config.run.output_dir).resolve()).encode(), digest_size=8).hexdigest()
    file = cache / "samples" / f"position-{place}-{socket.gethostname()}"
    position = Position(file, len(sources), workers, writes=first) if workers else None
    return Data(builder, sources, stores, position)


def _made_from(config: Config, builder: SampleBuilder, source: Source) -> list[object]:
    """What a source's samples are a function of."""
    files = [(stamp.rows, stamp.digest) for stamp in source.files]
    data = config.data
    readers = [Path(__file__).with_name(name).read_text() for name in ("json_values.py", "parquet_files.py")]
    return [
        builder.fingerprint,
        readers,
        version("pyarrow"),
        source.format,
        files,
        data.sequence_length,
        data.too_long,
    ]
