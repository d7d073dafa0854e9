"""Looks at a run's checkpoints from outside, all the time, as somebody would who takes the newest one away."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import TracebackType

from lab import Event, Straight

from trainer.checkpoint.manifest import MANIFEST, read_manifest

_EVERY_S = 0.005


class Observer:
    """A context in which each checkpoint is looked at as soon as it can be seen."""

    def __init__(self, run: Path, straight: Straight) -> None:
        self._folders = run / "checkpoints"
        self._names = {
            folder.name: {MANIFEST, *read_manifest(folder)}
            for folder in (straight.folder / "checkpoints").glob("step-*")
        }
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.seen: set[str] = set()
        self.bad: list[str] = []
        """Those that lacked a file when they were first seen."""

    def __enter__(self) -> Observer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.is_set():
            for folder in self._folders.glob("step-????????"):
                if folder.name not in self.seen:
                    lacking = [name for name in self._names[folder.name] if not (folder / name).is_file()]
                    self.bad += [f"{folder.name} without {', '.join(lacking)}"] if lacking else []
                    self.seen.add(folder.name)
            time.sleep(_EVERY_S)


def unflushed(events: list[Event], checkpoint: Path) -> list[str]:
    """What was renamed, or named, before it had been brought to the disk, in the save of a checkpoint.

    A power cut then could leave a name without its content. No trial can show that without cutting the power, so the
    order of the calls is looked at, over all ranks.
    """
    folders = str(checkpoint.parent)
    aside, pointer = f"{folders}/.{checkpoint.name}.partial", f"{folders}/.latest.partial"
    renamed = next(e.at for e in events if e.event == "rename" and e.path == aside)
    named = next(e.at for e in events if e.event == "rename" and e.path == pointer and e.at > renamed)
    last = max(event.at for event in events) + 1

    def flushed(path: str, before: float, after: float = 0.0) -> bool:
        """Between the last change of a file, or of what is in a folder, and something else."""
        changes = [
            e.at for e in events if e.path == path and e.event in ("create", "write") and e.at < before
        ]
        since = max([after, *changes])
        return any(e.event == "fsync" and e.path == path and since < e.at < before for e in events)

    inside = [MANIFEST, *read_manifest(checkpoint)]
    late = [name for name in inside if not flushed(f"{aside}/{name}", renamed)]
    late += [folder for folder in (aside, f"{aside}/training_state") if not flushed(folder, renamed)]
    late += [] if flushed(pointer, named) else [pointer]
    late += [] if flushed(folders, named, renamed) else [f"the name of {checkpoint.name}"]
    return late + ([] if flushed(folders, last, named) else ["the name of latest"])
