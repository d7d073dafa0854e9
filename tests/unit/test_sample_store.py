"""Kept samples: the same as made ones, whatever happens to the files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenization.length import Fitted, LengthCounts
from tokenization.sample import TokenizedSample
from trainer.data.sample_store import SampleStore, store_folder

samples = st.builds(
    lambda id, content: TokenizedSample(
        "mine",
        id,
        np.array([token for token, _, _ in content], np.int32),
        np.array([trained for _, trained, _ in content], np.bool_),
        np.array([kind for _, _, kind in content], np.uint8),
    ),
    st.text(max_size=12),
    st.lists(st.tuples(st.integers(0, 2**31 - 1), st.booleans(), st.integers(0, 127)), max_size=30),
)
fits = st.builds(
    lambda samples, counts: Fitted(tuple(samples), LengthCounts(*counts)),
    st.lists(samples, max_size=3),
    st.lists(st.integers(0, 2**32 - 1), min_size=5, max_size=5),
)


def same(a: Fitted | None, b: Fitted) -> bool:
    if a is None or a.counts != b.counts or len(a.samples) != len(b.samples):
        return False
    return all(
        (x.source, x.id) == (y.source, y.id)
        and all(
            getattr(x, name).dtype == getattr(y, name).dtype
            and np.array_equal(getattr(x, name), getattr(y, name))
            for name in ("tokens", "trained", "kinds")
        )
        for x, y in zip(a.samples, b.samples, strict=True)
    )


def made(length: int, id: str = "a") -> Fitted:
    numbers = np.arange(length)
    sample = TokenizedSample(
        "mine", id, numbers.astype(np.int32), numbers % 2 > 0, (numbers % 9).astype(np.uint8)
    )
    return Fitted((sample,), LengthCounts(kept=1))


@settings(deadline=None, max_examples=60)
@given(rows=st.dictionaries(st.integers(0, 2**33), fits, min_size=1, max_size=6))
def test_what_is_put_is_got_also_by_the_next_to_open_it(
    tmp_path_factory: pytest.TempPathFactory, rows: dict[int, Fitted]
):
    folder = tmp_path_factory.mktemp("store")
    store = SampleStore(folder, "mine")
    for row, fitted in rows.items():
        assert not store.has(row)
        assert store.get(row) is None
        store.put(row, fitted)
    for reader in (store, SampleStore(folder, "mine"), SampleStore(folder, "mine", writes=False)):
        assert all(reader.has(row) and same(reader.get(row), fitted) for row, fitted in rows.items())


def test_what_is_put_twice_is_the_later(tmp_path: Path):
    store = SampleStore(tmp_path, "mine")
    store.put(3, made(4))
    store.put(3, made(5))
    assert same(store.get(3), made(5))


def test_any_changed_byte_is_noticed(tmp_path: Path):
    """Of the data and of the index: a row is got whole or not at all."""
    SampleStore(tmp_path, "mine").put(1, made(7))
    for file in (tmp_path / "1.bin", tmp_path / "index"):
        content = file.read_bytes()
        for at in range(24 if file.name == "index" else 0, len(content)):
            file.write_bytes(content[:at] + bytes([content[at] ^ 0x20]) + content[at + 1 :])
            assert SampleStore(tmp_path, "mine").get(1) is None, f"{file.name} byte {at}"
        for stop in range(len(content)):
            file.write_bytes(content[:stop])
            assert SampleStore(tmp_path, "mine").get(1) is None, f"{file.name} cut at {stop}"
        file.write_bytes(content)
    assert same(SampleStore(tmp_path, "mine").get(1), made(7))


def test_the_record_of_another_row_is_no_answer(tmp_path: Path):
    store = SampleStore(tmp_path, "mine")
    store.put(0, made(7))
    index = (tmp_path / "index").read_bytes()
    (tmp_path / "index").write_bytes(index * 2)
    assert same(store.get(0), made(7))
    assert SampleStore(tmp_path, "mine").get(1) is None


def test_a_store_that_is_gone_holds_no_files(tmp_path: Path):
    before = len(os.listdir("/proc/self/fd"))
    for row in range(20):
        store = SampleStore(tmp_path, "mine")
        store.put(row, made(3))
        assert same(store.get(0), made(3))
        del store
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_bad_row_is_entered_but_gives_nothing(tmp_path: Path):
    store = SampleStore(tmp_path, "mine")
    store.put_bad(2)
    assert store.has(2)
    assert store.get(2) is None
    assert not store.has(1)


def test_a_reader_never_writes(tmp_path: Path):
    reader = SampleStore(tmp_path, "mine", writes=False)
    reader.put(0, made(3))
    reader.put_bad(1)
    assert not reader.has(0)
    assert not reader.has(1)


def test_processes_write_side_by_side(tmp_path: Path):
    """Four forked writers, each its rows and rows that all write; the parent sees all of them."""
    store = SampleStore(tmp_path, "mine")
    store.put(0, made(2))
    children: list[int] = []
    for worker in range(4):
        child = os.fork()
        if child == 0:
            for row in range(200):
                store.put(1 + row * 4 + worker, made(1 + row % 50, str(worker)))
                store.put(2000 + row, made(row % 50 + 1))
            os._exit(0)
        children.append(child)
    assert all(os.waitpid(child, 0)[1] == 0 for child in children)
    assert same(store.get(0), made(2))
    for row in range(200):
        assert same(store.get(2000 + row), made(row % 50 + 1))
        assert all(
            same(store.get(1 + row * 4 + worker), made(1 + row % 50, str(worker))) for worker in range(4)
        )
    assert len(list(tmp_path.glob("*.bin"))) == 5


def test_a_disk_that_takes_no_more_ends_writing_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    store = SampleStore(tmp_path, "mine")
    store.put(0, made(3))

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        store.put(1, made(4))
        store.put_bad(2)
    assert not store.writes
    assert not store.has(1)
    assert same(store.get(0), made(3))


def test_a_write_that_the_system_divides_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    whole = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda descriptor, content, at: whole(descriptor, content[:7], at))
    store = SampleStore(tmp_path, "mine")
    store.put(1, made(30))
    assert same(store.get(1), made(30))


def test_the_folder_follows_from_what_the_samples_follow_from(tmp_path: Path):
    identities: list[Sequence[object]] = [["a", 1], ["a", 2], ["b", 1]]
    folders = [store_folder(tmp_path, identity) for identity in identities]
    assert len(set(folders)) == 3
    assert folders[0] == store_folder(tmp_path, ["a", 1])
    assert all(a.parent == b.parent for a, b in pairwise(folders))
