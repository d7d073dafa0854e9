"""A model folder's weight files: which holds what, and that all are there, before any rank starts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from configs.errors import ConfigError
from configs.weights import INDEX, SINGLE, check_weights, tensor_files

NAMES = ("a", "b")


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    for name in NAMES:
        save_file({name: torch.ones(3)}, tmp_path / f"{name}.safetensors")
    files = {name: f"{name}.safetensors" for name in NAMES}
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": files}))
    return tmp_path


def test_sharded_or_not(sharded: Path) -> None:
    assert tensor_files(sharded) == {name: sharded / f"{name}.safetensors" for name in NAMES}
    check_weights(sharded)
    (sharded / INDEX).unlink()
    save_file({name: torch.ones(3) for name in NAMES}, sharded / SINGLE)
    assert tensor_files(sharded) == dict.fromkeys(NAMES, sharded / SINGLE)
    check_weights(sharded)
    (sharded / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(NAMES, SINGLE)}))
    assert tensor_files(sharded) == dict.fromkeys(NAMES, sharded / SINGLE)


def test_weights_that_are_there_twice_are_not_chosen_from(sharded: Path) -> None:
    """transformers saves one kind beside the other, and reads the one that we once did not."""
    save_file({name: torch.zeros(3) for name in NAMES}, sharded / SINGLE)
    with pytest.raises(
        ConfigError, match=r"holds weights twice: model.safetensors, and 2 files .* move those away"
    ):
        tensor_files(sharded)


@pytest.mark.parametrize("damage", ["gone", "cut", "empty", "a pointer"])
def test_a_file_that_is_not_whole_is_named(damage: str, sharded: Path) -> None:
    file = sharded / "b.safetensors"
    held = file.read_bytes()
    file.unlink()
    if damage != "gone":
        pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"
        file.write_bytes({"cut": held[:-1], "empty": b"", "a pointer": pointer}[damage])
    with pytest.raises(
        ConfigError, match=r"b\.safetensors cannot be read \(.+\); copy it again in full"
    ) as caught:
        check_weights(sharded)
    assert ("it is not there" in str(caught.value)) is (damage == "gone")


def test_a_folder_without_weights(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no \*\.safetensors weights in it, which .* agenttune init-model"):
        check_weights(tmp_path)
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(ConfigError, match=r"weights in it \(its \*\.bin are pickles, which are never read\)"):
        check_weights(tmp_path)


def test_shards_without_their_index(sharded: Path) -> None:
    (sharded / INDEX).unlink()
    with pytest.raises(ConfigError, match=rf"neither {SINGLE} nor {INDEX}"):
        check_weights(sharded)


def test_an_index_of_other_shards(sharded: Path) -> None:
    swapped = {"a": "b.safetensors", "b": "b.safetensors"}
    (sharded / INDEX).write_text(json.dumps({"weight_map": swapped}))
    with pytest.raises(ConfigError, match=rf"b\.safetensors does not hold a, as {INDEX} says \(1 such"):
        check_weights(sharded)


def test_an_index_that_cannot_be_read(sharded: Path) -> None:
    for text in ("{", "{}", "[]"):
        (sharded / INDEX).write_text(text)
        with pytest.raises(ConfigError, match=r"index\.json cannot be read"):
            tensor_files(sharded)
