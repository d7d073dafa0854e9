"""Whether a checkpoint is sound: its files, and whether weights and training state are of one model and one step.

Tensors are read one at a time, so memory stays that of the largest.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open

from configs.errors import ConfigError
from configs.layout import Layout
from configs.shapes import ModelShape
from configs.weights import tensor_files
from trainer.checkpoint.manifest import (
    MANIFEST,
    DamagedError,
    Records,
    check_files,
    check_sizes,
    read_manifest,
)
from trainer.checkpoint.progress import FOLDER, STATE, TENSORS
from trainer.checkpoint.slices import KINDS, Part, PartReader
from trainer.checkpoint.store import step_folder
from trainer.model.names import check_names, stage_table


class Found(NamedTuple):
    """What one check has seen."""

    what: str
    told: str


def verify(folder: Path, passed: Callable[[int], object] = lambda size: None) -> Iterator[Found]:
    """Each check that holds, as soon as it does. Raises DamagedError for the first that does not.

    passed: told of the bytes whose checksum was found right, file by file
    """
    records = read_manifest(folder)
    check_sizes(folder, records)
    size = sum(record.size for record in records.values())
    beside = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}
    others = sorted(beside - records.keys() - {MANIFEST})
    also = (
        f"; not of the checkpoint: {', '.join(others[:3])}{', …' if len(others) > 3 else ''}"
        if others
        else ""
    )
    yield Found("files", f"{len(records)}, of {size:,} bytes as in {MANIFEST}{also}")
    for name, record in records.items():
        check_files(folder, records, [name])
        passed(record.size)
    yield Found("checksums", f"XXH3 of {len(records)} files as in {MANIFEST}")
    try:
        yield from _verify_contents(folder, records)
    except DamagedError:
        raise
    except Exception as error:  # whatever the readers of files that are none of ours may raise
        kind = "" if isinstance(error, ConfigError) else f"{type(error).__name__}: "
        raise DamagedError(f"{folder}: {kind}{error}") from None


def _verify_contents(folder: Path, records: Records) -> Iterator[Found]:
    shape = ModelShape.from_folder(folder)
    files = tensor_files(folder)
    check_names(files, shape)
    state = folder / FOLDER
    parts = {n: [Part(*p) for p in held] for n, held in _read(state / TENSORS).items()}
    named = {*files.values(), *(state / part.file for held in parts.values() for part in held)}
    if strange := sorted(str(file) for file in named if file.relative_to(folder).as_posix() not in records):
        raise DamagedError(f"{strange[0]}: is read but not in {MANIFEST}, so nothing says what it must hold")
    dtypes: set[str] = set()
    with ExitStack() as stack:
        weights = _Files(stack)
        reader = stack.enter_context(PartReader(state, parts))
        for piece in (
            piece for held in stage_table(shape, [range(shape.layers + 3)]).values() for piece in held
        ):
            name = piece.name
            weight = weights.tensor(files[name], name)
            if tuple(weight.shape) != piece.shape:
                raise DamagedError(
                    f"{files[name]}: {name} has shape {tuple(weight.shape)}, not {piece.shape}"
                )
            dtypes.add(str(weight.dtype).removeprefix("torch."))
            for kind in KINDS:
                value = reader.read(piece, kind, 0, 1)
                if not torch.isfinite(value).all():
                    raise DamagedError(f"{state}: {name}/{kind} holds values that are not finite")
                if kind == "master" and not torch.equal(value.to(weight.dtype), weight):
                    raise DamagedError(
                        f"{files[name]}: {name} is not {FOLDER}'s float32 weight, rounded to {weight.dtype}"
                    )
    config = _read(folder / "config.json")
    asked = {str(config.get("dtype", config.get("torch_dtype")))}
    if dtypes != asked:
        raise DamagedError(
            f"{folder / 'config.json'}: dtype {', '.join(asked)}, but the weights are {', '.join(sorted(dtypes))}"
        )
    yield Found(
        "weights", f"{len(shape.tensors())} tensors, {', '.join(sorted(dtypes))}, as config.json asks"
    )
    held = {part.file for held in parts.values() for part in held}
    yield Found("training state", f"float32 weights and moments of them all in {len(held)} files, finite")
    yield Found("agreement", "the weights are the float32 ones, rounded, bit by bit")
    values = _read(state / STATE)
    step = _read(folder / MANIFEST)["step"]
    if values["step"] != step:
        raise DamagedError(f"{state / STATE}: step {values['step']}, but {step} in {MANIFEST}")
    if re.fullmatch(r"step-\d+", folder.name) and folder.name != step_folder(Path(), step).name:
        raise DamagedError(f"{folder}: is of step {step}; it was renamed")
    yield Found(
        "progress",
        f"step {step} of {values['steps']}, {values['cursor']['row']:,} rows, data hash {values['cursor']['hash']}; "
        f"written as {Layout(**values['layout'])}",
    )


def _read(file: Path) -> Mapping[str, Any]:
    return json.loads(file.read_text(encoding="utf-8"))


class _Files:
    """Files of tensors, each opened once."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._open: dict[Path, Any] = {}

    def tensor(self, file: Path, name: str) -> torch.Tensor:
        if file not in self._open:
            self._open[file] = self._stack.enter_context(safe_open(file, framework="pt"))
        return self._open[file].get_tensor(name)
