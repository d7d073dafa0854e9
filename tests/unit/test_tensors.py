"""Tensors and texts are written as they are, whatever their parts, and the disk's faults are told."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from trainer.checkpoint import tensors as tensors_module
from trainer.checkpoint.manifest import flush, read_record
from trainer.checkpoint.tensors import Joined, Room, write_pieces, write_stream, write_tensors, write_text

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


def test_parts_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"parts of \(2, 3\) and \(2, 2\) do not make one tensor"):
        _ = Joined([torch.zeros(2, 3), torch.zeros(2, 2)]).shape
    with pytest.raises(ValueError, match=r"parts of \(3, 2\) and \(1, 2\) do not make one tensor"):
        _ = Joined([torch.zeros(3, 2), torch.zeros(1, 2)], beside=True).shape


def test_pieces_that_are_not_as_many_as_told_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="file: 20 bytes were given, not 21"):
        write_pieces(tmp_path / "file", iter([memoryview(b"x" * 10)] * 2), 21)


@pytest.mark.parametrize("size", [[], [1], [3, 2], [2, 3, 2], [0, 3], [3, 0]])
def test_tensors_of_any_shape_that_are_trained(size: list[int], tmp_path: Path) -> None:
    tensor = torch.randn(size, requires_grad=True)
    write_stream(tmp_path / "file", {"x": (torch.bfloat16, size)}, iter([Joined([tensor])]))
    assert torch.equal(load_file(tmp_path / "file")["x"], tensor.detach().bfloat16())


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


def test_a_tensor_is_asked_for_while_the_one_before_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no earlier: so that no more than two have to be in memory."""
    file, sizes, asked = tmp_path / "file", [], threading.Semaphore(0)
    entries = {str(i): (torch.float32, [100_000]) for i in range(3)}

    def made() -> Iterator[Joined]:
        for i in range(3):
            asked.release()
            sizes.append(file.stat().st_size)
            yield Joined([torch.full([100_000], float(i))])
        asked.release()

    def written(*_: object) -> None:
        assert asked.acquire(timeout=60), "what comes next is not asked for meanwhile"

    monkeypatch.setattr(tensors_module, "_begin_flush", written)  # a part of each write
    record = write_stream(file, entries, made())
    assert all(size >= 400_000 * (i - 1) for i, size in enumerate(sizes))
    assert record.size == file.stat().st_size
    assert [float(tensor[-1]) for tensor in load_file(file).values()] == [0.0, 1.0, 2.0]


def test_memory_of_a_tensor_lasts_until_the_next_but_one_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the one between has no numbers, and the disk is slow."""
    rooms, sizes = (Room(), Room()), (4, 0, 4, 3, 0, 0, 5)
    entries = {str(i): (torch.float32, [size]) for i, size in enumerate(sizes)}

    def made() -> Iterator[Joined]:
        for i, size in enumerate(sizes):
            yield Joined([rooms[i % 2].take([size], torch.float32).fill_(i)])

    class Slow(io.FileIO):
        def write(self, content: Any, /) -> int:
            time.sleep(0.02)
            return super().write(content)

    def slowly(file: Path, mode: str, buffering: int) -> io.FileIO:
        assert (mode, buffering) == ("wb", 0)
        return Slow(file, "w")

    monkeypatch.setattr(tensors_module, "open", slowly, raising=False)
    record = write_stream(tmp_path / "file", entries, made())
    assert read_record(tmp_path / "file") == record
    for i, tensor in enumerate(load_file(tmp_path / "file").values()):
        assert torch.equal(tensor, torch.full([sizes[i]], float(i)))


def test_memory_that_is_not_to_be_had_is_no_fault_of_a_disk() -> None:
    with pytest.raises(MemoryError, match=r"no memory for a tensor of \(1152921504606846976,\)"):
        Room().take([1 << 60], torch.bfloat16)


def test_a_process_may_end_while_a_write_hangs() -> None:
    """A pipe that nobody reads is written to by a thread as the saver's; the main thread fails."""
    code = """
import os, threading, time
from pathlib import Path
import torch
from trainer.checkpoint.tensors import write_tensors
os.posix_fadvise = lambda *_: None  # pipes know no advice
file = Path(f"/proc/self/fd/{os.pipe()[1]}")
threading.Thread(target=write_tensors, args=(file, {"x": torch.zeros(1 << 20)}), daemon=True).start()
time.sleep(0.5)
raise AssertionError("the step failed")
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert "the step failed" in ended.stderr


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
