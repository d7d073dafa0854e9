"""A config's data: its tokenizer, its sources and its stream of rows. Shared by training and preview; no torch."""

from __future__ import annotations

from pathlib import Path

from configs.errors import ConfigError
from configs.schema import Config
from tokenization.builder import SampleBuilder
from tokenization.control_text import settle
from tokenization.conversation import Conversation, Message
from tokenization.segments import RenderError
from tokenization.templates import open_template
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


def open_sources(config: Config) -> list[Source]:
    """The sources in the config's order. Raises DataError for one that is empty or cannot be read."""
    return [open_source(source) for source in config.data.sources]


def open_stream(config: Config, builder: SampleBuilder | None = None) -> RowStream:
    """The run's rows from their beginning; a `builder` that is there already is used instead of a new one.

    Raises ConfigError or DataError.
    """
    builder = builder or open_builder(config)
    return RowStream(open_sources(config), builder, config.data, config.run.seed, builder.encoder.pad_id)
