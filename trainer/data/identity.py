"""What a stream is a function of, and whether that is still what a checkpoint was made with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from configs.errors import ConfigError
from configs.schema import DataConfig
from tokenization.errors import DataError
from trainer.data.sources import Source

FILES = "data files"
_START_AFRESH = "or start afresh with checkpoint.resume=never"


def identity(
    config: DataConfig, seed: int, sources: Sequence[Source], shares: Sequence[Fraction]
) -> dict[str, Any]:
    """As JSON. Of a file its name without the folder, rows and content: data may be moved, but not changed."""
    return {
        "run.seed": seed,
        "data.sequence_length": config.sequence_length,
        "data.pack_window": config.pack_window,
        "data.too_long": config.too_long,
        "data.template": config.template,
        "data.control_text": config.control_text,
        "data.system_prompt": config.system_prompt,
        "data.eta_unit": config.eta_unit,
        "data.sources and the shares by data.eta": [
            [source.name, source.format, str(share)] for source, share in zip(sources, shares, strict=True)
        ],
        FILES: [[[Path(f.path).name, f.rows, f.digest] for f in source.files] for source in sources],
    }


def check_same(then: Mapping[str, Any], now: Mapping[str, Any], sources: Sequence[Source]) -> None:
    """Raises ConfigError where a setting differs, DataError naming the file where data does."""
    for key, value in now.items():
        if key not in then:
            raise ConfigError(
                f"the checkpoint's data stream does not say {key}: an older version wrote it; start from its weights "
                "with model.path and checkpoint.resume=never"
            )
        before = then[key]
        if value == before:
            continue
        if key != FILES:
            raise ConfigError(
                f"{key} is {value} but the checkpoint's data stream was made with {before}; "
                f"set it back, {_START_AFRESH}"
            )
        for source, files, old in zip(sources, value, before, strict=True):
            _check_files(source, files, old)


def _check_files(source: Source, now: Sequence[Sequence[Any]], then: Sequence[Sequence[Any]]) -> None:
    for place, stamp in enumerate(source.files):
        if place >= len(then) or now[place][0] != then[place][0]:
            known = ", ".join(old[0] for old in then)
            raise DataError(
                f"{stamp.path}: not among the files of source {source.name!r} when the checkpoint was made, or not in "
                f"this place ({known}); take it away, {_START_AFRESH}"
            )
        if now[place] != then[place]:
            (_, rows, digest), (_, old_rows, old_digest) = now[place], then[place]
            raise DataError(
                f"{stamp.path}: changed since the checkpoint was made: {rows:,} rows with digest {digest} now, "
                f"{old_rows:,} with {old_digest} at that time; bring back that file, {_START_AFRESH}"
            )
    if len(then) > len(now):
        raise DataError(
            f"source {source.name!r}: {then[len(now)][0]} was among its files when the checkpoint was made; "
            f"bring it back, {_START_AFRESH}"
        )
