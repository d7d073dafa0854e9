"""The files that a source's path means: a file, a glob, a folder, or a data set of the Hugging Face hub."""

from __future__ import annotations

import glob
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path, PurePath

from configs.paths import DATA_SUFFIXES, hub_name
from tokenization.errors import DataError

_HELD_OUT = re.compile(r"(?:^|[-_./])(test|validation|valid|val|dev|eval)(?=[-_./]|$)", re.IGNORECASE)
"""Words by which Hugging Face knows the splits that are not for training."""


def data_files(source: str, path: str) -> list[str]:
    """Sorted. Raises DataError where there is none, or where a data set cannot be fetched."""
    if Path(path).is_file():  # a name may hold [ or ? itself
        return [path]
    if Path(path).is_dir():
        return _checked(source, path, in_folder(source, Path(path)))
    found = sorted(match for match in glob.glob(path, recursive=True) if Path(match).is_file())
    name = None if found else hub_name(path)
    if name is None:
        return _checked(source, path, found)
    folder = _fetched(source, path, name.repository, name.revision, name.pattern)
    if name.pattern is None:
        return _checked(source, path, in_folder(source, folder))
    return _checked(source, path, sorted(str(f) for f in folder.glob(name.pattern) if f.is_file()))


def in_folder(source: str, folder: Path) -> list[str]:
    """The data files of a folder: of one kind, no hidden ones, and none of a split that is held out from training."""
    files = [f.relative_to(folder) for f in folder.rglob("*") if f.is_file()]
    files = sorted(f for f in files if not any(part.startswith(".") for part in f.parts))
    for suffix in DATA_SUFFIXES:
        kind = [f for f in files if f.suffix == suffix and not (suffix == ".json" and "_info" in f.name)]
        if kind:
            held_out = [f for f in kind if _HELD_OUT.search(str(PurePath(f).with_suffix("")))]
            if held_out:
                names = ", ".join(map(str, held_out[:5])) + (", …" if len(held_out) > 5 else "")
                print(
                    f"source {source!r}: {names} held out from training by name; name files or a glob to take them",
                    file=sys.stderr,
                )
            return [str(folder / f) for f in kind if f not in held_out]
    return []


def _fetched(source: str, path: str, repository: str, revision: str | None, pattern: str | None) -> Path:
    """The data set's snapshot in the hub's cache, whose place HF_HOME says; HF_HUB_OFFLINE=1 asks nobody."""
    from huggingface_hub import snapshot_download  # a third of a second to import
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    wanted = [pattern] if pattern else [f"**{suffix}" for suffix in DATA_SUFFIXES]
    try:
        return Path(
            snapshot_download(repository, repo_type="dataset", revision=revision, allow_patterns=wanted)
        )
    except GatedRepoError:
        reason = "the data set asks for consent; give it on its page, and log in with `hf auth login`"
    except RepositoryNotFoundError:
        reason = "no such data set on the hub, nor a local file; correct the name, or log in if it is private"
    except RevisionNotFoundError:
        reason = f"the data set has no revision {revision!r}; correct it"
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        reason = (
            f"no local file, and as a data set of the hub not in the local cache nor to be fetched ({first[:160]}); "
            f"correct the path, or fetch it where there is a network: hf download {repository} --repo-type dataset"
        )
    raise DataError(f"source {source!r}: {path}: {reason}")


def _checked(source: str, path: str, files: Sequence[str]) -> list[str]:
    if not files:
        raise DataError(
            f"source {source!r}: no file matches path {path!r} (read from folder {os.getcwd()}); "
            "correct data.sources[…].path"
        )
    return list(files)
