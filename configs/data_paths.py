"""What a source's path means: the files here that it names, or a data set of the Hugging Face Hub. No network."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from glob import glob
from pathlib import Path, PurePath
from urllib.parse import unquote

SUFFIXES = (".parquet", ".jsonl", ".json")
"""Of files that a folder's data lie in. A folder that has several kinds most likely has the same rows in each, so only
the first of these that there is counts."""

_HELD_OUT = {"test", "testing", "eval", "evaluation", "validation", "valid", "val", "dev"}
"""The words by which Hugging Face knows splits that are not for training."""
_ABOUT = {"config", "info", "infos"}
"""Words in the name of a *.json that tells of data and has none: dataset_infos.json, tokenizer_config.json."""
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_REVISION = r"refs/(?:convert|pr)/[^/]+|[^/]+"
_ADDRESS = re.compile(rf"hf://datasets/({_NAME.pattern})(?:@({_REVISION}))?(?:/(.*))?", re.ASCII)


@dataclass(frozen=True)
class DataFiles:
    """The files of a path, sorted, and those left out because their names say that they are not for training."""

    files: tuple[str, ...] = ()
    held_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class HubDataSet:
    """A data set on the Hub; `pattern` is a file, a folder or a glob in it, empty for all of it."""

    name: str
    revision: str | None = None
    pattern: str = ""


def local_files(path: str, root: str = "") -> DataFiles:
    """The files that a path names: one file, the data files of a folder, what matches a glob; none where nothing does.

    root: the folder that a relative path is read from, by default the working directory
    """
    place = Path(root, path)  # a name may itself hold [ or *
    if place.is_file():
        return DataFiles((str(place),))
    if place.is_dir():
        return _folder_files(place)
    matches = (Path(root, match) for match in glob(path, root_dir=root or None, recursive=True))
    return DataFiles(tuple(sorted({str(match) for match in matches if match.is_file()})))


def hub_data_set(path: str) -> HubDataSet | None:
    """What `owner/name` or `hf://datasets/owner/name[@revision][/pattern]` names; None for another path."""
    if _NAME.fullmatch(path) and not path.endswith(SUFFIXES):
        return HubDataSet(path)
    if address := _ADDRESS.fullmatch(path):
        name, revision, pattern = address.groups()
        return HubDataSet(name, revision and unquote(revision), pattern or "")
    return None


def _folder_files(folder: Path) -> DataFiles:
    """All *.parquet below a folder, else all *.jsonl, else all *.json, but nothing hidden, held out or about data."""
    inner = sorted(file.relative_to(folder) for file in folder.rglob("*") if file.suffix in SUFFIXES)
    seen = [
        file
        for file in inner
        if (folder / file).is_file()
        and not any(part.startswith(".") for part in file.parts)
        and not (file.suffix == ".json" and _ABOUT & _words(file.name))
    ]
    held_out = [file for file in seen if _HELD_OUT & _words(str(file))]
    kept = [file for file in seen if not _HELD_OUT & _words(str(file))]
    kind = next((suffix for suffix in SUFFIXES if any(file.suffix == suffix for file in kept)), None)
    return DataFiles(_under(folder, (file for file in kept if file.suffix == kind)), _under(folder, held_out))


def _words(name: str) -> set[str]:
    return set(re.split(r"[^a-z]+", name.lower()))


def _under(folder: Path, files: Iterable[PurePath]) -> tuple[str, ...]:
    return tuple(sorted(str(folder / file) for file in files))
