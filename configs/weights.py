"""Which file of a Hugging Face folder holds which tensor. No torch here: it is asked before ranks start."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open

from configs.errors import ConfigError

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"


def tensor_files(folder: Path) -> dict[str, Path]:
    """File of each tensor in a safetensors model folder, sharded or not.

    Raises ConfigError where there is none, or where it is not clear which: transformers takes model.safetensors where
    there are shards too, as a folder has that was saved to twice. Pickled weights (pytorch_model.bin) are never read.
    """
    index, single = folder / INDEX, folder / SINGLE
    if index.is_file():
        try:
            names: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{index} cannot be read ({error}); copy it again in full") from None
        others = {file for file in names.values() if file != SINGLE}
        if single.is_file() and others:
            raise ConfigError(
                f"{folder} holds weights twice: {SINGLE}, and {len(others)} files that {INDEX} names; move those away "
                "that are not meant (transformers reads the former)"
            )
        return {name: folder / file for name, file in names.items()}
    if single.is_file():
        return dict.fromkeys(_tensors(single), single)
    raise ConfigError(
        f"{folder} holds neither {SINGLE} nor {INDEX}, which names the files of sharded weights: copy it again in full"
    )


def check_weights(folder: Path) -> None:
    """All weight files are there, each to its end and with the tensors that it should have. Raises ConfigError naming
    one that is not."""
    if not any(folder.glob("*.safetensors")):
        pickled = " (its *.bin are pickles, which are never read)" if any(folder.glob("*.bin")) else ""
        raise ConfigError(
            f"model.path={folder}: no *.safetensors weights in it{pickled}, which a run begins with; must be a "
            "Hugging Face folder: download one, or make one with agenttune init-model"
        )
    files = tensor_files(folder)
    for file in sorted({*files.values()}):
        held = set(_tensors(file))
        if absent := [name for name, named in files.items() if named == file and name not in held]:
            raise ConfigError(
                f"{file} does not hold {absent[0]}, as {INDEX} says ({len(absent)} such tensors): they are not of one "
                "model; copy both again"
            )


def _tensors(file: Path) -> list[str]:
    """The names in a file, whose length is compared with what its header says."""
    try:
        with safe_open(file, framework="np") as opened:
            return list(opened.keys())
    except (OSError, SafetensorError) as error:
        reason = "it is not there" if isinstance(error, FileNotFoundError) else str(error)
        raise ConfigError(f"{file} cannot be read ({reason}); copy it again in full") from None
