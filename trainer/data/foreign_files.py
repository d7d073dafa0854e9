"""Files of a kind that is not read here, known before they are taken for JSON, each told with its remedy."""

from __future__ import annotations

import shlex
from pathlib import Path

from tokenization.errors import DataError

HEAD = 1024
"""Bytes of a file's beginning that are looked at."""

_PACKED = {
    b"\x1f\x8b": ("gzip", "gzip -dc {file} > {plain}"),
    b"BZh": ("bzip2", "bzip2 -dc {file} > {plain}"),
    b"\xfd7zXZ\x00": ("xz", "xz -dc {file} > {plain}"),
    b"\x28\xb5\x2f\xfd": ("zstd", "zstd -dc {file} > {plain}"),
    b"PK\x03\x04": ("zip", "unzip {file}"),
}
"""How each kind begins, its name, and what takes it apart: a file may be named after anything."""
_SUFFIXES = (".gz", ".bz2", ".xz", ".zst")

_TO_JSONL = (
    'python -c "import csv, json, sys; '
    "[print(json.dumps(row)) for row in csv.DictReader(open(sys.argv[1], encoding='utf-8-sig', newline=''){tabs})]\" "
    "{file} > {plain}"
)
_COLUMNS = "its columns named as a format has them: prompt,response or instruction,input,output"
_TEXTS = (".csv", ".tsv", ".txt")
"""What has no beginning of its own is known by its name, and by no line that begins as JSON does."""


def refuse_foreign(path: str, head: bytes) -> None:
    """Raises DataError where a file that begins with `head` is compressed, or a table or text that is no JSON."""
    file = Path(path)
    for magic, (kind, command) in _PACKED.items():
        if head.startswith(magic):
            plain = _unused(file.with_name(file.stem) if file.suffix in _SUFFIXES else file)
            command = command.format(file=shlex.quote(path), plain=shlex.quote(str(plain)))
            raise DataError(f"{path}: compressed with {kind}, which is not read; decompress it: {command}")
    suffix = file.suffix.lower()
    lines = head.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    begins = {line.lstrip()[:1] for line in lines}
    if suffix not in _TEXTS or begins == {b""} or begins & {b"{", b"["}:
        return
    if suffix == ".txt":
        raise DataError(
            f"{path}: text that is no JSON; write each conversation as a line of JSON, such as "
            '{"prompt": "…", "response": "…"}'
        )
    command = _TO_JSONL.format(
        tabs=", delimiter='\\t'" if suffix == ".tsv" else "",
        file=shlex.quote(path),
        plain=shlex.quote(str(_unused(file.with_suffix(".jsonl")))),
    )
    raise DataError(
        f"{path}: a {suffix[1:].upper()} table, which is not read; make it JSONL, {_COLUMNS}: {command}"
    )


def _unused(file: Path) -> Path:
    """A name like that of `file` under which there is nothing yet that a command would overwrite."""
    return file.with_name(f"unpacked-{file.name}") if file.exists() else file
