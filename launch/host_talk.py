"""What the command and the agents on its hosts tell each other: lines of JSON, on the agents' standard streams."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from threading import Lock
from typing import IO, Any

_MARK = "agenttune-host "
"""A login shell may print lines of its own before."""
_lock = Lock()


def say(stream: IO[str], kind: str, **values: Any) -> None:
    """Whoever listened may be gone."""
    line = _MARK + json.dumps({"kind": kind} | values) + "\n"
    with contextlib.suppress(OSError, ValueError), _lock:
        stream.write(line)
        stream.flush()


def heard(stream: IO[str]) -> Iterator[Mapping[str, Any]]:
    """What is said, until the other side ends. Lines of others are left out."""
    for line in stream:
        if line.startswith(_MARK):
            with contextlib.suppress(ValueError):
                yield json.loads(line.removeprefix(_MARK))
