"""Compressed files, tables and texts are told as what they are, and the remedy that is told works as it is typed."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from configs.schema import SourceConfig
from tokenization.errors import DataError
from trainer.data.foreign_files import refuse_foreign
from trainer.data.sources import Source, open_source

ROWS = [{"prompt": 'Say "a,\tb"\nü', "response": "a,\tb"}, {"prompt": "", "response": "{}"}]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def opened(path: Path) -> Source:
    return open_source(SourceConfig(name="mine", path=str(path), role="agent"))


def refused(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        opened(path)
    assert caught.value.where is None  # no row is to blame, so data.on_error=skip leaves nothing out
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value)


def obeyed(said: str) -> None:
    """Types the command at the message's end, with this Python for `python`."""
    command = said.rpartition(": ")[2]
    if "python -c" in said:
        command = said[said.index("python -c") :].replace("python", sys.executable, 1)
    subprocess.run(command, shell=True, check=True, timeout=60)


PACKED: list[tuple[str, str, Callable[[bytes], bytes]]] = [
    ("gzip", ".gz", gzip.compress),
    ("bzip2", ".bz2", bz2.compress),
    ("xz", ".xz", lzma.compress),
]


@pytest.mark.parametrize(("kind", "suffix", "pack"), PACKED)
@pytest.mark.parametrize("named", [True, False])
def test_a_compressed_file_is_known_by_its_content(
    tmp_path: Path, kind: str, suffix: str, pack: Callable[[bytes], bytes], named: bool
):
    path = tmp_path / ("my rows.jsonl" + (suffix if named else ""))
    path.write_bytes(pack(LINES))
    said = refused(path)
    assert f"compressed with {kind}" in said
    if not shutil.which(kind):
        pytest.skip(f"no {kind} here")
    obeyed(said)
    plain = path.with_suffix("") if named else path.with_name("unpacked-my rows.jsonl")
    assert [opened(plain).row(i)[0] for i in range(2)] == ROWS


def test_zstd_and_zip_too(tmp_path: Path):
    path = tmp_path / "rows.jsonl.zst"
    path.write_bytes(bytes.fromhex("28b52ffd0458") + LINES)
    assert f"compressed with zstd, which is not read; decompress it: zstd -dc {path}" in refused(path)
    path = tmp_path / "rows.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("rows.jsonl", LINES)
    assert f"compressed with zip, which is not read; decompress it: unzip {path}" in refused(path)


@pytest.mark.parametrize(("suffix", "delimiter"), [(".csv", ","), (".tsv", "\t"), (".CSV", ",")])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_table_becomes_jsonl_by_the_command_that_is_told(
    tmp_path: Path, suffix: str, delimiter: str, mark: str
):
    path = tmp_path / f"my rows{suffix}"

    def line(*cells: str) -> str:
        return delimiter.join('"' + cell.replace('"', '""') + '"' for cell in cells) + "\r\n"

    path.write_bytes((mark + line(*ROWS[0]) + "".join(line(*row.values()) for row in ROWS)).encode())
    said = refused(path)
    assert f"a {suffix[1:].upper()} table" in said
    assert "prompt,response" in said
    obeyed(said)
    assert [opened(path.with_suffix(".jsonl")).row(i)[0] for i in range(2)] == ROWS


def test_a_text_is_told_what_a_row_is(tmp_path: Path):
    path = tmp_path / "rows.txt"
    path.write_text("User: Hello.\nAssistant: Hello.\n")
    assert 'a line of JSON, such as {"prompt": "…", "response": "…"}' in refused(path)


@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv", "rows.txt", "rows.gz", "rows.zip"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf \n"])
@pytest.mark.parametrize("array", [False, True])
def test_json_is_read_whatever_its_name(tmp_path: Path, name: str, mark: bytes, array: bool):
    path = tmp_path / name
    path.write_bytes(mark + (json.dumps(ROWS).encode() if array else LINES))
    assert [opened(path).row(i)[0] for i in range(2)] == ROWS


def test_an_empty_file_stays_one_without_rows(tmp_path: Path):
    path = tmp_path / "rows.csv"
    path.write_bytes(b" \n")
    assert "file without any row" in refused(path)


def test_no_cache_is_made_of_what_is_refused(tmp_path: Path):
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(LINES))
    with pytest.raises(DataError):
        open_source(SourceConfig(name="mine", path=str(path), role="agent"), tmp_path / "cache")
    assert os.listdir(tmp_path) == [path.name]


def test_rows_after_lines_that_are_none_make_it_jsonl(tmp_path: Path):
    file = tmp_path / "rows.txt"
    file.write_text('# a header\n{"prompt": "a", "response": "b"}\n')
    refuse_foreign(str(file), file.read_bytes())


def test_the_command_overwrites_nothing(tmp_path: Path):
    (tmp_path / "rows.jsonl").write_text("mine")
    (tmp_path / "rows.csv").write_text("prompt,response\na,b\n")
    with pytest.raises(DataError, match=r"> \S*unpacked-rows\.jsonl$"):
        refuse_foreign(str(tmp_path / "rows.csv"), b"prompt,response\na,b\n")
