"""A path of data that names a data set of the Hugging Face hub."""

from __future__ import annotations

import re
from typing import NamedTuple

DATA_SUFFIXES = (".parquet", ".jsonl", ".json")
"""Of data files; in a folder the first of them that occurs is meant."""
_SCHEME = "hf://"
_NAME = re.compile(r"(?:datasets/)?([\w.-]+/[\w.-]+)(?:@([^/]+))?(?:/(.+))?")
_PLAIN = re.compile(r"[A-Za-z0-9][\w-]*/[A-Za-z0-9][\w.-]*")
_FILE = re.compile(r"\.(json|jsonl|parquet|csv|txt|gz|zst|zip|ya?ml)$", re.IGNORECASE)


class HubName(NamedTuple):
    """`revision` and `pattern` are None where the path names none."""

    repository: str
    revision: str | None = None
    pattern: str | None = None
    """Files within it, a glob."""


def hub_name(path: str) -> HubName | None:
    """`hf://datasets/owner/name[@revision][/pattern]`, as fsspec writes it, or a bare `owner/name`; None for the
    rest."""
    if path.startswith(_SCHEME):
        found = _NAME.fullmatch(path.removeprefix(_SCHEME))
        return HubName(*found.groups()) if found else None
    return HubName(path) if _PLAIN.fullmatch(path) and not _FILE.search(path) else None
