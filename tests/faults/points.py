"""Tells of each call of the operating system that this process makes on files below a folder.

Python's audit hooks tell of files that are opened, renamed and removed, whoever does it in Python. fsync and the bytes
themselves have none, so `os.fsync` and unbuffered files are replaced by ones that tell. What a library writes on its
own (the tokenizer's file) is not seen; the calls before and after it are.
"""

from __future__ import annotations

import builtins
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

Meet = Callable[[str, str], None]
"""Called with an event of `faults.py` and a path, in the thread that makes the call. An OSError raised becomes the
call's own."""

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_NAMED = {"os.remove": "remove", "os.rmdir": "rmdir", "os.mkdir": "mkdir", "os.rename": "rename"}
_PARENT = {"os.remove": 1, "os.rmdir": 1, "os.mkdir": 2}
"""Which argument of the audit event holds the folder's descriptor, where the path is relative to one."""


def watch(folder: Path, meet: Meet) -> None:
    """From now on, until the process ends."""
    below = str(folder)

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if flags & _WRITING and isinstance(path, str | bytes) and os.fsdecode(path).startswith(below):
                meet("create", os.fsdecode(path))
        elif event in _NAMED:
            path = os.fsdecode(arguments[0])
            if (parent := arguments[_PARENT[event]] if event in _PARENT else -1) >= 0:
                path = f"{_path_of(parent)}/{path}"
            if path.startswith(below):
                meet(_NAMED[event], path)

    def open_raw(file: Any, mode: str = "r", buffering: int = -1, *rest: Any, **options: Any) -> Any:
        raw = buffering == 0 and isinstance(file, str | os.PathLike)
        if raw and os.fspath(file).startswith(below):
            return _Watched(os.fspath(file), mode.replace("b", ""), meet)
        return open_any(file, mode, buffering, *rest, **options)

    def fsync_told(descriptor: Any) -> None:
        number = descriptor if isinstance(descriptor, int) else descriptor.fileno()
        if (path := _path_of(number)).startswith(below):
            meet("fsync", path)
        fsync(number)

    open_any, fsync = builtins.open, os.fsync
    builtins.open = io.open = open_raw
    os.fsync = fsync_told
    sys.addaudithook(audit)


class _Watched(io.FileIO):
    """A file that tells in the middle of each write, so that what comes then leaves half of it there."""

    def __init__(self, path: str, mode: str, meet: Meet) -> None:
        super().__init__(path, mode)
        self._path, self._meet = path, meet

    def write(self, content: Any, /) -> int:
        half = len(content) // 2
        written = super().write(content[:half])
        if written < half:
            return written  # the disk took no more; the caller asks again
        self._meet("write", self._path)
        return written + super().write(content[half:])

    def readinto(self, buffer: Any, /) -> int:
        if ".partial" in self._path:
            self._meet("read", self._path)
        return super().readinto(buffer)


def _path_of(descriptor: int) -> str:
    return os.readlink(f"/proc/self/fd/{descriptor}")
