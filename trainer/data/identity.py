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
HELD_OUT = "evaluation.held_out"


def from_weights(checkpoint: Path | None) -> str:
    """The way round a checkpoint that a run cannot go on from. Not in the run's own folder: there the new checkpoints
    would take the place of the old, the one that is begun with among them."""
    settings = f"model.path={checkpoint or 'CHECKPOINT'} run.output_dir=NEW_FOLDER checkpoint.resume=auto"
    return (
        f"begin another run from the checkpoint's weights: {settings} (optimizer, learning rate and data begin anew), "
        "or start afresh with checkpoint.resume=never"
    )


def identity(
    config: DataConfig,
    seed: int,
    sources: Sequence[Source],
    shares: Sequence[Fraction],
    held_out: float = 0.0,
) -> dict[str, Any]:
    """As JSON. Of a file its name without the folder, rows and content: data may be moved, but not changed. Of what is
    held out nothing where nothing is: so it was before rows could be."""
    apart = {HELD_OUT: held_out} if held_out else {}
    return apart | {
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


def check_same(
    then: Mapping[str, Any], now: Mapping[str, Any], sources: Sequence[Source], checkpoint: Path | None = None
) -> None:
    """Raises ConfigError where a setting differs, DataError naming the file where data does.

    checkpoint: the folder that `then` was read from, for the remedy
    """
    way_round = from_weights(checkpoint)
    then, now = {HELD_OUT: 0.0, **then}, {HELD_OUT: 0.0, **now}
    for key, value in now.items():
        if key not in then:
            raise ConfigError(
                f"the checkpoint's data stream does not say {key}: an older version wrote it; {way_round}"
            )
        before = then[key]
        if value == before:
            continue
        if key != FILES:
            raise ConfigError(
                f"{key}: {_told(value)} now, but the checkpoint's data stream was made with {_told(before)}; "
                f"set it back, {way_round}"
            )
        for source, files, old in zip(sources, value, before, strict=True):
            _check_files(source, files, old, way_round)


def _told(value: Any) -> str:
    """Of each source its name and share, and its format where it is named."""
    if not isinstance(value, list):
        return str(value)
    return ", ".join(" ".join(part for part in source if part != "auto") for source in value)


def _check_files(
    source: Source, now: Sequence[Sequence[Any]], then: Sequence[Sequence[Any]], way_round: str
) -> None:
    for place, stamp in enumerate(source.files):
        if place >= len(then) or now[place][0] != then[place][0]:
            known = ", ".join(old[0] for old in then)
            raise DataError(
                f"{stamp.path}: not among the files of source {source.name!r} when the checkpoint was made, or not in "
                f"this place ({known}); take it away, {way_round}"
            )
        if now[place] != then[place]:
            (_, rows, digest), (_, old_rows, old_digest) = now[place], then[place]
            raise DataError(
                f"{stamp.path}: changed since the checkpoint was made: {rows:,} rows with digest {digest} now, "
                f"{old_rows:,} with {old_digest} at that time; bring back that file, {way_round}"
            )
    if len(then) > len(now):
        raise DataError(
            f"source {source.name!r}: {then[len(now)][0]} was among its files when the checkpoint was made; "
            f"bring it back, {way_round}"
        )
