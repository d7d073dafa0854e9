"""A checkpoint's files are what was written, or somebody is told: any byte, any length."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from trainer.checkpoint import tensors as tensors_module
from trainer.checkpoint.manifest import (
    MANIFEST,
    DamagedError,
    check_files,
    check_sizes,
    flush,
    manifest_text,
    read_manifest,
    read_record,
)
from trainer.checkpoint.tensors import Joined, write_pieces, write_stream, write_tensors, write_text

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
    with pytest.raises(DamagedError, match="format 0, this version reads 2"):
        read_manifest(tmp_path)


tensors = st.dictionaries(
    st.text(min_size=1, max_size=5).filter(lambda name: name != "__metadata__"),
    st.tuples(st.lists(st.integers(0, 4), max_size=3), st.sampled_from([torch.float32, torch.bfloat16])),
    max_size=4,
)


@settings(deadline=None)
@given(shapes=tensors)
def test_files_are_read_by_safetensors(
    shapes: dict[str, tuple[list[int], torch.dtype]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("tensors")
    written = {name: torch.randn(shape).to(dtype) for name, (shape, dtype) in shapes.items()}
    record = write_tensors(folder / "ours", written)
    assert record.size == (folder / "ours").stat().st_size
    assert record == read_record(folder / "ours")
    read = load_file(folder / "ours")
    assert read.keys() == written.keys()
    for name, tensor in written.items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name], tensor)


def test_a_slice_is_written_without_the_rest(tmp_path: Path) -> None:
    whole = torch.arange(24.0).reshape(4, 6)
    write_tensors(tmp_path / "ours", {"rows": whole[1:3], "columns": whole[:, 2:4]})
    read = load_file(tmp_path / "ours")
    assert torch.equal(read["rows"], whole[1:3])
    assert torch.equal(read["columns"], whole[:, 2:4])
    save_file({"rows": whole[1:3].contiguous(), "columns": whole[:, 2:4].contiguous()}, tmp_path / "theirs")
    assert abs((tmp_path / "ours").stat().st_size - (tmp_path / "theirs").stat().st_size) < 64


@settings(deadline=None)
@given(
    rows=st.lists(st.integers(0, 7), min_size=1, max_size=4),
    columns=st.lists(st.integers(0, 7), min_size=1, max_size=4),
    beside=st.booleans(),
    dtypes=st.tuples(*[st.sampled_from([torch.float32, torch.bfloat16])] * 2),
    piece=st.integers(1, 64),
)
def test_parts_are_written_as_the_tensor_that_they_make(
    rows: list[int],
    columns: list[int],
    beside: bool,
    dtypes: tuple[torch.dtype, torch.dtype],
    piece: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Whatever their sizes, and whatever fits into a piece: torch joins and casts them."""
    given, written = dtypes
    if beside:
        parts = [torch.randn(rows[0], width).to(given) for width in columns]
    else:
        parts = [torch.randn(height, columns[0]).to(given) for height in rows]
    expected = torch.cat(parts, dim=1 if beside else 0).to(written)
    file = tmp_path_factory.mktemp("joined") / "file"
    whole = Joined([expected])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tensors_module, "_PIECE", piece)
        entries = dict.fromkeys("abc", (written, expected.shape))
        write_stream(file, entries, iter([whole, Joined(parts, beside), whole]))
    for tensor in load_file(file).values():
        assert tensor.dtype is written
        assert torch.equal(tensor, expected)


def test_the_digest_is_that_of_other_tools(tmp_path: Path) -> None:
    """XXH3_128bits of nothing with seed 0, as in the reference implementation's sanity tests."""
    assert write_text(tmp_path / "file", "").xxh3 == "99aa06d3014798d86001c324468d497f"


def test_other_dtypes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"x: dtype torch.int64, .* cast it"):
        write_tensors(tmp_path / "file", {"x": torch.ones(2, dtype=torch.int64)})


def test_a_tensor_is_asked_for_while_the_one_before_is_written(tmp_path: Path) -> None:
    """So that no more than two have to be in memory."""
    file, sizes = tmp_path / "file", []
    entries = {str(i): (torch.float32, [100_000]) for i in range(3)}

    def made() -> Iterator[Joined]:
        for i in range(3):
            sizes.append(file.stat().st_size)
            yield Joined([torch.full([100_000], float(i))])

    record = write_stream(file, entries, made())
    assert all(size >= 400_000 * (i - 1) for i, size in enumerate(sizes))
    assert record.size == file.stat().st_size
    assert [float(tensor[-1]) for tensor in load_file(file).values()] == [0.0, 1.0, 2.0]


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ([torch.zeros(2), torch.zeros(3)], r"b: \(3,\), not \(2,\)"),
        ([torch.zeros(2)], "shorter"),
        ([torch.zeros(2)] * 3, "longer"),
    ],
)
def test_tensors_that_are_not_as_the_header_says(
    tensors: list[torch.Tensor], said: str, tmp_path: Path
) -> None:
    entries = {name: (torch.float32, [2]) for name in "ab"}
    with pytest.raises(ValueError, match=said):
        write_stream(tmp_path / "file", entries, (Joined([tensor]) for tensor in tensors))


@pytest.mark.parametrize("mend", [lambda data: data[:-1], lambda data: b"?" + data[1:]])
def test_a_disk_that_gives_back_something_else_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mend: Callable[[bytes], bytes]
) -> None:
    fsync = os.fsync

    def faulty(descriptor: int) -> None:
        fsync(descriptor)
        file = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        file.write_bytes(mend(file.read_bytes()))

    monkeypatch.setattr(os, "fsync", faulty)
    with pytest.raises(OSError, match=r"file: reads back other bytes than were written"):
        write_text(tmp_path / "file", "content")


def test_a_full_disk_is_told_with_file_and_bytes() -> None:
    pieces = [memoryview(b"x" * 10)] * 2
    with pytest.raises(
        OSError, match=r"/dev/full: 0 of 20 bytes were written, then: No space left on device"
    ):
        write_pieces(Path("/dev/full"), iter(pieces), 20)


@pytest.mark.parametrize("call", ["fsync", "posix_fadvise"])
def test_a_disk_that_fails_is_named(call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's calls are given a descriptor, and their errors do not know the file."""
    file = tmp_path / "file"
    file.write_text("x")

    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError, match=rf"Input/output error: '{file}'"):
        flush(file) if call == "fsync" else read_record(file)
