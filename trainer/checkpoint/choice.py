"""Which checkpoint a run goes on from, as far as that is seen before any rank starts. No torch here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from configs.errors import ConfigError
from configs.schema import Config
from trainer.checkpoint.manifest import MANIFEST, DamagedError, check_files, check_sizes, read_manifest
from trainer.checkpoint.progress import began_with, nothing_to_do
from trainer.checkpoint.store import LATEST, committed, folders_of, is_name, named_latest
from trainer.data.identity import from_weights
from trainer.data.notices import tell_once

SMALL = 4 << 20
"""Bytes of a file that is read at a glance."""


def resume_folders(config: Config) -> list[Path]:
    """The checkpoints to go on from, the next where one is damaged; none for a fresh start. Raises ConfigError for a
    folder that is not there; tells where one that is named is not taken.

    A folder of another run is where this run begins; once it has checkpoints of its own it goes on from those, also
    where that folder is gone. One that began elsewhere does not take it: ConfigError. One of its own is gone back to.
    What is named is not replaced by another.
    """
    resume = config.checkpoint.resume
    checkpoints = Path(config.run.output_dir) / "checkpoints"
    if resume == "never":
        return []
    if resume == "auto":
        found = committed(checkpoints)
        if found and not named_latest(checkpoints):
            tell_once(f"{checkpoints / LATEST} names none: going on from the newest, {found[0].name}")
        if passed := [each.name for each in folders_of(checkpoints) if found and each.name > found[0].name]:
            tell_once(f"{checkpoints / LATEST} names {found[0].name}: {', '.join(passed)} passed over")
        return found
    folder = Path(resume)
    if folder.is_dir():
        check_is_one(folder)
    own = committed(checkpoints) if goes_on(config) else []
    begun = any(began_with(each) == str(folder.absolute()) for each in own)
    if not folder.is_dir() and not begun:  # mistyped, it may be
        raise ConfigError(f"checkpoint.resume={resume}: no such folder; name a checkpoint, auto or never")
    if own and not begun:
        raise ConfigError(
            f"checkpoint.resume={resume}: {config.run.output_dir} has checkpoints of its own and did not begin there; "
            f"go on from its newest, {own[0].name}, with checkpoint.resume=auto, or begin a new run with another "
            "run.output_dir"
        )
    if own:
        began = "is where this run began" if folder.is_dir() else "is gone, and this run has begun there"
        tell_once(
            f"checkpoint.resume={resume} {began}: it goes on from its own {own[0].name} "
            "(with another run.output_dir a new run begins with what is named)"
        )
        return own
    if not goes_on(config) and not is_name(own_name(config, folder)):
        raise ConfigError(
            f"checkpoint.resume={resume}: is no checkpoint in force; to go back to it give it a name like "
            "step-00000100, or begin another run there: with another run.output_dir"
        )
    return [folder]


def check_some_left(config: Config, folder: Path, done: int, steps: int | None) -> None:
    """Raises ConfigError where a run would begin with another's checkpoint, after `done` steps, and take none."""
    if nothing_to_do(done, steps) and not own_name(config, folder):
        raise ConfigError(
            f"{folder} has {done} steps behind it, from which a run that begins with it counts on: of {steps} none is "
            f"left; raise train.steps or train.epochs, or {from_weights(folder)}"
        )


def goes_on(config: Config) -> bool:
    """Whether the same command, started again, goes on from this run's newest checkpoint."""
    resume = config.checkpoint.resume
    return resume == "auto" or (resume != "never" and not own_name(config, Path(resume)))


def own_name(config: Config, folder: Path) -> str:
    """The folder's name where it lies among this run's checkpoints, be it as a link; else empty."""
    checkpoints = (Path(config.run.output_dir) / "checkpoints").resolve()
    return next(
        (path.name for path in (folder, folder.resolve()) if path.parent.resolve() == checkpoints), ""
    )


def resume_folder(config: Config) -> Path | None:
    """The first checkpoint to go on from that looks whole, as far as a moment shows; None for a fresh start.

    Tells of each that does not. Raises ConfigError where none does.
    """
    return first_sound(resume_folders(config), glance, tell_once)


def glance(folder: Path) -> None:
    """What a moment shows: every file's size, and all bytes of the small ones, which are read before ranks start.

    Raises DamagedError.
    """
    records = read_manifest(folder)
    check_sizes(folder, records)
    check_files(folder, records, [name for name, record in records.items() if record.size <= SMALL])


def first_sound(
    folders: Sequence[Path], check: Callable[[Path], None], tell: Callable[[str], None]
) -> Path | None:
    """The first folder that `check` raises no DamagedError for; None where there are no folders.

    Raises ConfigError where it does for all: a run never starts over silently.
    """
    for i, folder in enumerate(folders):
        try:
            check(folder)
        except DamagedError as error:
            damage = str(error)
        else:
            return folder
        if i + 1 < len(folders):
            tell(
                f"checkpoint {folder.name} is damaged: {damage}. Going on from {folders[i + 1].name} instead"
            )
        else:
            beside = [each.name for each in folders_of(folder.parent) if each not in folders]
            remedy = f"Beside it are {', '.join(beside[:5])}: name" if beside else "There is no other: name"
            raise ConfigError(
                f"{damage}. {remedy} a whole one in checkpoint.resume, or start afresh with checkpoint.resume=never"
            )
    return None


def check_is_one(folder: Path) -> None:
    """Raises ConfigError for a folder that is no checkpoint but has some, as a run's has."""
    inner = [*folders_of(folder), *folders_of(folder / "checkpoints")]
    if inner and not (folder / MANIFEST).is_file():
        raise ConfigError(f"{folder} is no checkpoint but has some: name one, such as {inner[0]}")
