"""Places that were found are kept while the file is the same, and never trusted."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

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


@pytest.mark.parametrize("content", ["[1,\n}" + ",\n2" * 20 + "]", "[1,\n2\n", ""])
def test_a_file_that_is_refused_leaves_no_thread_behind(
    path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, content: str
):
    """Not even while somebody holds the error: to end a thread when memory is collected can hang for good."""
    started: list[threading.Thread] = []
    start = threading.Thread.start

    def counted(thread: threading.Thread):
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", counted)
    path.write_text(content)
    for folder in (None, cache):
        with pytest.raises(DataError) as held:
            JsonFile(str(path), folder)
        assert held.value.__traceback__
        assert not any(thread.is_alive() for thread in started)
    assert bool(started) == bool(content)
