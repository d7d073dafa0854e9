"""A checkpoint's files are what was written, or somebody is told: any byte, any length."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.checkpoint.manifest import (
    MANIFEST,
    DamagedError,
    check_files,
    check_sizes,
    manifest_text,
    read_manifest,
)
from trainer.checkpoint.tensors import write_tensors, write_text

DAMAGES = int(os.environ.get("DAMAGES", "150"))
NAMES = ("weights.safetensors", "training_state/state.json")


def write(folder: Path) -> None:
    (folder / "training_state").mkdir()
    records = {
        NAMES[0]: write_tensors(folder / NAMES[0], {"a": torch.arange(20.0), "b": torch.ones(3).bfloat16()}),
        NAMES[1]: write_text(folder / NAMES[1], '{"step": 7}'),
    }
    write_text(folder / MANIFEST, manifest_text(7, records))


def check(folder: Path) -> None:
    records = read_manifest(folder)
    check_sizes(folder, records)
    check_files(folder, records, records)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    write(folder)
    check(folder)
    return folder


@settings(deadline=None, max_examples=DAMAGES)
@given(
    name=st.sampled_from([*NAMES, MANIFEST]),
    at=st.floats(0, 1, exclude_max=True),
    bit=st.integers(0, 7),
    cut=st.booleans(),
)
def test_any_damage_is_noticed(checkpoint: Path, name: str, at: float, bit: int, cut: bool) -> None:
    file = checkpoint / name
    whole = file.read_bytes()
    place = int(at * len(whole))
    flipped = whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :]
    file.write_bytes(whole[:place] if cut else flipped)
    try:
        if name == MANIFEST and same_values(file.read_bytes(), whole):
            check(checkpoint)  # white space, say
        else:
            with pytest.raises(DamagedError, match=str(file)) as caught:
                check(checkpoint)
            assert "\n" not in str(caught.value)
    finally:
        file.write_bytes(whole)


def same_values(text: bytes, other: bytes) -> bool:
    try:
        return json.loads(text) == json.loads(other)
    except ValueError:
        return False


@pytest.mark.parametrize("name", [*NAMES, MANIFEST])
def test_a_missing_file_is_noticed(checkpoint: Path, name: str, tmp_path: Path) -> None:
    (checkpoint / name).rename(tmp_path / "away")
    with pytest.raises(DamagedError, match=f"{checkpoint / name}: "):
        check(checkpoint)
    (tmp_path / "away").rename(checkpoint / name)


def test_an_older_format_is_told(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text('{"format": 0}')
    with pytest.raises(DamagedError, match="format 0, this version of agenttune reads 2; go on with"):
        read_manifest(tmp_path)
