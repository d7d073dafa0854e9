"""Which settings of a run that goes on are others than those it was started with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from configs.schema import Config

_FREE = (
    *("run", "parallel", "checkpoint", "evaluation", "wandb", "train"),
    *("model.path", "data.workers", "data.cache_dir"),
)
"""Sections and keys that change nothing in what is learned, or are told or refused where they do."""


def changes(before: Path, config: Config) -> list[str]:
    """`optimizer.lr 0.003 -> 0.001` for each key that had another value in the config that was saved; none where that
    cannot be read. Where data lie is left out: whether they are the same is asked of the data."""
    was = saved_settings(before)
    now = dict(_flat(OmegaConf.to_container(OmegaConf.structured(config)), ()))
    told = [key for key in now if not key.startswith(_FREE) and not key.endswith(".path")]
    return [
        f"{key} {_show(was[key])} -> {_show(now[key])}" for key in told if key in was and was[key] != now[key]
    ]


def saved_settings(file: Path) -> dict[str, Any]:
    """Dotted keys and values of a config that was saved; empty where it cannot be read."""
    try:
        return dict(_flat(OmegaConf.to_container(OmegaConf.load(file)), ()))
    except (OSError, YAMLError, UnicodeDecodeError, OmegaConfBaseException):
        return {}


def _flat(value: Any, at: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """Dotted keys and values; lists of sections by position."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _flat(inner, (*at, str(name)))
    elif isinstance(value, Sequence) and value and isinstance(value[0], Mapping):
        for position, inner in enumerate(value):
            yield from _flat(inner, (*at, str(position)))
    else:
        yield ".".join(at), list(value) if isinstance(value, list | tuple) else value


def _show(value: object) -> str:
    return "null" if value is None else str(value)
