"""Places of rows: found piece by piece as by reading the file whole, kept while the file is the same, never trusted."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenization.errors import DataError
from trainer.data import indexer, row_index
from trainer.data.json_files import JsonFile

EDIT = "changed while it is in use"


def values(file: JsonFile) -> list[object]:
    return [file.row(i)[0] for i in range(len(file))]


@pytest.fixture
def scans(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are scanned, one entry each time."""
    seen: list[str] = []
    scan = JsonFile._scan  # pyright: ignore[reportPrivateUsage]

    def counted(self: JsonFile, to: indexer.Indexer) -> None:
        seen.append(self._path)  # pyright: ignore[reportPrivateUsage]
        scan(self, to)

    monkeypatch.setattr(JsonFile, "_scan", counted)
    return seen


def pieces_of(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(indexer, "PIECE", size)


# --- places ---

LINES = st.lists(
    st.sampled_from(
        [b"", b" ", b"\t\r", b"1", b" 2", b'"\xc3\xbc"', b'{"a": [1, 2]}', b"  \x0b", b'{"a":', b"null "]
    ),
    max_size=12,
)


@given(
    lines=LINES,
    end=st.sampled_from([b"\n", b"\r\n", b"\r\r\n"]),
    mark=st.sampled_from([b"", b"\xef\xbb\xbf"]),
    last=st.booleans(),
    piece=st.integers(1, 12),
)
def test_lines_are_those_of_the_file_read_whole(
    tmp_path_factory: pytest.TempPathFactory,
    lines: list[bytes],
    end: bytes,
    mark: bytes,
    last: bool,
    piece: int,
):
    path = tmp_path_factory.mktemp("lines") / "rows.jsonl"
    content = b"0" + end + end.join(lines) + (end if last else b"")
    path.write_bytes(mark + content)
    expected = [
        (n, line.strip(b"\r"))
        for n, line in enumerate(content.split(b"\n"), 1)
        if not line.isspace() and line
    ]
    with pytest.MonkeyPatch.context() as patch:
        pieces_of(patch, piece)
        index = JsonFile(str(path))._index  # pyright: ignore[reportPrivateUsage]
    found = [index.read(i) for i in range(len(index))]
    assert [(line, data.strip(b"\r")) for data, line in found] == expected
    assert index.stamp.digest == hashlib.sha256(mark + content).hexdigest()[:32]
    assert index.stamp.rows == len(expected)


ELEMENTS = st.recursive(
    st.sampled_from(
        [0, -1, 12.5, 1e300, 1e-7, True, False, None, "", "ü🎉", 'quo"te\\', "]", "},{", "\n\u2028"]
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(
    rows=st.lists(ELEMENTS, min_size=1, max_size=8),
    indent=st.sampled_from([None, 0, 2]),
    escaped=st.booleans(),
    edge=st.text(" \n\r", max_size=3),
    piece=st.integers(1, 40),
)
def test_elements_are_those_of_the_array_read_whole(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[object],
    indent: int | None,
    escaped: bool,
    edge: str,
    piece: int,
):
    """Whatever a piece ends in: a number, a word, an escape, half a character."""
    path = tmp_path_factory.mktemp("array") / "rows.json"
    path.write_bytes((edge + json.dumps(rows, indent=indent, ensure_ascii=escaped) + edge).encode())
    with pytest.MonkeyPatch.context() as patch:
        pieces_of(patch, piece)
        file = JsonFile(str(path))
    assert repr(values(file)) == repr(rows)
    assert file.stamp.digest == hashlib.sha256(path.read_bytes()).hexdigest()[:32]


@given(
    content=st.binary(max_size=24).map(lambda tail: b"[" + tail)
    | st.text('[]{},:"\\u0dtrue-1.5eE \n', max_size=24).map(lambda tail: f"[{tail}".encode())
    | st.sampled_from(
        [b"[1,\n2", b"[1\n 2]", b'["a', b"[1,]", b"[1] 2", b"[1.5e+]", b"[-", b"[tru]", b'["\\ud8"]']
    )
)
def test_a_broken_array_is_refused_alike_whatever_the_pieces(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
):
    """With the same line and column; bytes that are no text come first or after, as they are reached."""
    path = tmp_path_factory.mktemp("broken") / "rows.json"
    path.write_bytes(content)

    def outcome(piece: int) -> object:
        with pytest.MonkeyPatch.context() as patch:
            pieces_of(patch, piece)
            try:
                file = JsonFile(str(path))
                return [file._index.read(i) for i in range(len(file))]  # pyright: ignore[reportPrivateUsage]
            except DataError as error:
                return str(error)

    whole = outcome(1 << 20)
    try:
        content.decode()
    except UnicodeDecodeError:
        assert all(isinstance(outcome(piece), str) for piece in (1, 2, 5)) == isinstance(whole, str)
        return
    assert [outcome(piece) for piece in (1, 2, 3, 5, 17)] == [whole] * 5
    try:
        expected = len(json.loads(content))
    except (ValueError, RecursionError):
        assert isinstance(whole, str)
    else:
        assert len(whole) == expected if isinstance(whole, list) else not expected


def test_a_numbers_digits_may_lie_in_many_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """20,000 digits are too long for an integer, and no fault before a point."""
    pieces_of(monkeypatch, 64)
    path = tmp_path / "rows.json"
    path.write_text("[1, " + "9" * 20_000 + ".5, 2]")
    assert len(JsonFile(str(path))) == 3
    path.write_text("[1,\n" + "9" * 20_000 + ", 2]")
    with pytest.raises(DataError, match=rf"{path}:2 \(row 2\): .*4300 digits"):
        JsonFile(str(path))


def test_an_object_over_several_pieces_is_one_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pieces_of(monkeypatch, 5)
    path = tmp_path / "tree.json"
    path.write_text(json.dumps({"a": [{"b": "ü" * 40}], "c": 1.5}, indent=1, ensure_ascii=False) + "\n")
    assert values(JsonFile(str(path))) == [json.loads(path.read_text())]


@pytest.mark.parametrize("kind", ["lines", "array"])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, kind: str):
    row = json.dumps({"text": "x" * 400})
    path = tmp_path / "rows"
    with path.open("w") as file:
        file.write("[" if kind == "array" else "")
        file.writelines((row + ("," if kind == "array" else "") + "\n") for _ in range(75_000))
        file.write(row + ("]" if kind == "array" else "\n"))
    assert path.stat().st_size > 30e6
    tracemalloc.start()
    try:
        file = JsonFile(str(path), tmp_path / "cache")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(file) == 75_001
    assert file.row(75_000)[0] == json.loads(row)
    assert peak < 12 * indexer.PIECE


# --- cache ---


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"n": 1}\n\n{"n": 2}\n')
    return file


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "made" / "cache"


def entry_of(cache: Path) -> Path:
    (entry,) = (cache / "indexes").glob("*.json")
    return entry


def test_a_file_that_is_known_is_not_scanned(path: Path, cache: Path, scans: list[str]):
    first = JsonFile(str(path), cache)
    again = JsonFile(str(path), cache)
    assert scans == [str(path)]
    assert [again.row(i) for i in range(2)] == [first.row(i) for i in range(2)]
    assert again.stamp == first.stamp
    assert first.row(1)[1].line == 3


def test_an_entry_is_found_by_the_absolute_path(
    path: Path, cache: Path, scans: list[str], monkeypatch: pytest.MonkeyPatch
):
    JsonFile(str(path), cache)
    monkeypatch.chdir(path.parent)
    assert JsonFile(path.name, cache).stamp.path == path.name
    assert len(scans) == 1


def append(path: Path) -> None:
    with path.open("a") as file:
        file.write("3\n")


def edit(path: Path) -> None:
    """Of the same size, at another time."""
    before = path.stat()
    path.write_bytes(path.read_bytes().replace(b"2", b"7"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))


def replace(path: Path) -> None:
    """By another file, of the same size and time."""
    other = path.with_suffix(".new")
    other.write_bytes(path.read_bytes().replace(b"2", b"8"))
    os.utime(other, ns=(0, path.stat().st_mtime_ns))
    other.rename(path)


@pytest.mark.parametrize("change", [append, edit, replace])
def test_a_file_that_was_changed_is_scanned_again(
    path: Path, cache: Path, scans: list[str], change: Callable[[Path], None]
):
    old = JsonFile(str(path), cache).stamp
    change(path)
    file = JsonFile(str(path), cache)
    assert values(file) == [json.loads(line) for line in path.read_text().splitlines() if line]
    assert len(scans) == 2
    assert file.stamp.digest == hashlib.sha256(path.read_bytes()).hexdigest()[:32] != old.digest
    assert values(JsonFile(str(path), cache)) == values(file)
    assert len(scans) == 2
    assert len(list((cache / "indexes").iterdir())) == 3  # entry, places and lock; nothing of the old state


@pytest.mark.parametrize("change", [append, edit])
def test_rows_of_a_file_that_is_written_to_are_refused(
    path: Path, cache: Path, change: Callable[[Path], None]
):
    file = JsonFile(str(path), cache)
    change(path)
    with pytest.raises(DataError, match=rf"^{path}: {EDIT}; start again"):
        file.row(0)


def test_a_file_that_is_replaced_goes_on_as_it_was(path: Path):
    file = JsonFile(str(path))
    replace(path)
    assert values(file) == [{"n": 1}, {"n": 2}]


def test_a_file_that_changes_while_it_is_scanned_is_refused(
    path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    finish = indexer.Indexer.finish

    def late(self: indexer.Indexer) -> object:
        append(path)
        return finish(self)

    monkeypatch.setattr(indexer.Indexer, "finish", late)
    with pytest.raises(DataError, match=rf"^{path}: changed while it was read; start again"):
        JsonFile(str(path), cache)
    assert [file.suffix for file in (cache / "indexes").iterdir()] == [".lock"]


def cut_places(cache: Path) -> None:
    (places,) = (cache / "indexes").glob("*.places")
    places.write_bytes(places.read_bytes()[:-1])


def spoil_last_place(cache: Path) -> None:
    (places,) = (cache / "indexes").glob("*.places")
    places.write_bytes(places.read_bytes()[:-24] + b"\x7f" * 24)


def flip_places(cache: Path) -> None:
    (places,) = (cache / "indexes").glob("*.places")
    content = bytearray(places.read_bytes())
    content[24] ^= 1  # the second row would begin a byte further on
    places.write_bytes(content)


def lose_places(cache: Path) -> None:
    (places,) = (cache / "indexes").glob("*.places")
    places.unlink()


def rewrite(change: Callable[[dict[str, object]], object]) -> Callable[[Path], None]:
    def do(cache: Path) -> None:
        record = json.loads(entry_of(cache).read_text())
        change(record)
        entry_of(cache).write_text(json.dumps(record))

    return do


CORRUPT: dict[str, Callable[[Path], object]] = {
    "empty": lambda cache: entry_of(cache).write_bytes(b""),
    "cut": lambda cache: entry_of(cache).write_bytes(entry_of(cache).read_bytes()[:-9]),
    "no text": lambda cache: entry_of(cache).write_bytes(b"\xff\xfe"),
    "a list": lambda cache: entry_of(cache).write_text("[1]"),
    "a number": lambda cache: entry_of(cache).write_text("7"),
    "another version": rewrite(lambda record: record.update(version=row_index.VERSION + 1)),
    "without rows": rewrite(lambda record: record.pop("rows")),
    "other rows": rewrite(lambda record: record.update(rows=1)),
    "no number of rows": rewrite(lambda record: record.update(rows="many")),
    "no name": rewrite(lambda record: record.update(places=None)),
    "places cut": cut_places,
    "places changed": flip_places,
    "places lost": lose_places,
    "last place": spoil_last_place,
}


@pytest.mark.parametrize("fault", CORRUPT)
def test_a_damaged_entry_is_made_anew(path: Path, cache: Path, scans: list[str], fault: str):
    JsonFile(str(path), cache)
    CORRUPT[fault](cache)
    assert values(JsonFile(str(path), cache)) == [{"n": 1}, {"n": 2}]
    assert len(scans) == 2
    assert values(JsonFile(str(path), cache)) == [{"n": 1}, {"n": 2}]
    assert len(scans) == 2


def test_what_a_dead_process_left_is_removed(path: Path, cache: Path):
    JsonFile(str(path), cache)
    left = entry_of(cache).with_name(f"{entry_of(cache).stem}-dead.places")
    left.write_bytes(b"half")
    append(path)
    JsonFile(str(path), cache)
    assert not left.exists()


def no_folder(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.parent.mkdir()
    cache.write_text("a file")


def full_disk(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.fsync

    def full(descriptor: int) -> None:
        if str(cache) in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)


def read_only(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For root too, whom the bits of a folder do not stop."""

    def refuse(self: Path, *args: object, **settings: object) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)


@pytest.mark.parametrize("trouble", [no_folder, full_disk, read_only])
def test_a_cache_that_cannot_be_written_is_done_without(
    path: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    trouble: Callable[[Path, pytest.MonkeyPatch], None],
):
    trouble(cache, monkeypatch)
    assert values(JsonFile(str(path), cache)) == [{"n": 1}, {"n": 2}]
    left = list((cache / "indexes").iterdir()) if (cache / "indexes").is_dir() else []
    assert [file.suffix for file in left] in ([], [".lock"])


def test_a_cache_that_is_read_only_is_still_read(
    path: Path, cache: Path, scans: list[str], monkeypatch: pytest.MonkeyPatch
):
    JsonFile(str(path), cache)
    read_only(cache, monkeypatch)
    assert values(JsonFile(str(path), cache)) == [{"n": 1}, {"n": 2}]
    assert len(scans) == 1


def test_without_locks_it_goes_on(path: Path, cache: Path, scans: list[str], monkeypatch: pytest.MonkeyPatch):
    def unsupported(file: object, how: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(row_index.fcntl, "flock", unsupported)
    for _ in range(2):
        assert values(JsonFile(str(path), cache)) == [{"n": 1}, {"n": 2}]
    assert len(scans) == 1


def test_without_a_cache_nothing_is_left(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    aside = tmp_path / "aside"
    aside.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(aside))
    assert values(JsonFile(str(path))) == [{"n": 1}, {"n": 2}]
    assert list(aside.iterdir()) == []


OPEN = """
import sys, time
from pathlib import Path
from trainer.data.json_files import JsonFile
scan, log = JsonFile._scan, Path(sys.argv[3])
def slow(self, to):
    with log.open("a") as file:
        file.write("scan\\n")
    time.sleep(0.5)
    scan(self, to)
JsonFile._scan = slow
file = JsonFile(sys.argv[1], Path(sys.argv[2]))
print([file.row(i)[0]["n"] for i in range(len(file))], file.stamp.digest)
"""


def test_of_processes_that_open_at_once_one_scans(path: Path, cache: Path, tmp_path: Path):
    log = tmp_path / "log"
    command = [sys.executable, "-c", OPEN, str(path), str(cache), str(log)]
    root = Path(__file__).parents[2]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) for _ in range(3)]
    said = {process.communicate()[0] for process in started}
    assert [process.returncode for process in started] == [0, 0, 0]
    assert said == {f"[1, 2] {hashlib.sha256(path.read_bytes()).hexdigest()[:32]}\n"}
    assert log.read_text() == "scan\n"


def test_rows_are_read_by_parent_and_child(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f"{n}\n" for n in range(2000)))
    file = JsonFile(str(path))
    child = os.fork()
    if not child:
        os._exit(0 if values(file) == list(range(2000)) else 1)
    assert values(file) == list(range(2000))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_broken_array_leaves_no_entry(tmp_path: Path, cache: Path):
    path = tmp_path / "rows.json"
    path.write_text("[1, 2")
    for _ in range(2):
        with pytest.raises(DataError, match="Expecting ',' delimiter"):
            JsonFile(str(path), cache)
    assert [file.suffix for file in (cache / "indexes").iterdir()] == [".lock"]
