"""What can be found wrong before any rank starts. No torch here."""

from __future__ import annotations

import os
from pathlib import Path

from configs.check import check_config
from configs.errors import ConfigError
from configs.layout import Layout
from configs.schema import Config
from configs.shapes import ModelShape
from tokenization.encoder import Encoder
from trainer.data.mixture import shares
from trainer.data.sources import open_source


def check_settings(config: Config, processes: int | None) -> Layout:
    """The layout of a config that fits its model, tokenizer and number of processes. Raises ConfigError."""
    shape = ModelShape.from_folder(config.model.path)
    try:
        vocabulary = Encoder.from_folder(config.model.path).vocab_size
    except ValueError as error:
        raise ConfigError(f"model.path={config.model.path}: {error}") from error
    return check_config(config, shape, vocabulary, processes)


def check_sources(config: Config) -> None:
    """Every source opens and has rows. Raises ConfigError for shares that cannot be met, DataError for data."""
    shares([(source.role, source.weight) for source in config.data.sources], config.data.eta)
    for source in config.data.sources:
        open_source(source)


def accelerators() -> int:
    """CUDA devices this process may use, 0 on a CPU host."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([device for device in visible.split(",") if device.strip() not in ("", "-1")])
    return len([path for path in Path("/dev").glob("nvidia*") if path.name.removeprefix("nvidia").isdigit()])
