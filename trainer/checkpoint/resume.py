"""Which checkpoint all ranks go on from: every byte of it is read before a tensor is used."""

from __future__ import annotations

import sys
from fnmatch import fnmatch
from pathlib import Path

from configs.errors import ConfigError
from configs.schema import Config
from configs.weights import check_weights
from trainer.checkpoint.choice import first_sound, glance, resume_folders
from trainer.checkpoint.manifest import (
    MANIFEST,
    DamagedError,
    Records,
    check_files,
    check_sizes,
    read_manifest,
)
from trainer.data.notices import tell_once
from trainer.parallel.exchange import exchange
from trainer.parallel.grid import Grid

WEIGHTS = "model*.safetensors"


def agree_on_checkpoint(config: Config, grid: Grid) -> Path | None:
    """The newest sound checkpoint of those to go on from, None for a fresh start; a collective.

    The ranks divide the reading among them. Where one finds damage all take the checkpoint before, and rank 0 says so.
    Raises ConfigError where there is none, or where the damaged one was named.
    """

    at_a_glance = False

    def check(folder: Path) -> None:
        nonlocal at_a_glance
        damage, at_a_glance = "", True
        try:
            glance(folder)
            at_a_glance = False
            records = read_manifest(folder)
            check_files(folder, records, share(records, grid.rank, grid.layout.world_size))
        except DamagedError as error:
            damage = str(error)
        found = [said for said in exchange(damage, grid) if said]
        if found:
            raise DamagedError(found[0])

    def tell(said: str) -> None:
        if at_a_glance:
            tell_once(said)  # who started the ranks has seen it too
        elif grid.is_main:
            print(said, file=sys.stderr)

    return first_sound(_folders_of_main(config, grid), check, tell)


def agree_on_weights(folder: Path, grid: Grid) -> None:
    """The model folder to begin with holds all its weights, and where it is a checkpoint of ours those that were
    written; a collective.

    The ranks divide the reading. Raises ConfigError. Of folders without a manifest only the files' lengths are known.
    """
    damage = ""
    try:
        check_weights(folder)
        # Looked for by each rank: the folder may be each machine's own.
        records = read_manifest(folder) if (folder / MANIFEST).is_file() else {}
        weights = {name: record for name, record in records.items() if fnmatch(name, WEIGHTS)}
        check_sizes(folder, weights)
        check_files(folder, weights, share(weights, grid.rank, grid.layout.world_size))
    except DamagedError as error:
        damage = (
            f"model.path: {error}. Take another folder or, if the change was meant, delete its {MANIFEST}"
        )
    except ConfigError as error:
        damage = str(error)
    if found := [said for said in exchange(damage, grid) if said]:
        raise ConfigError(found[0])


def _folders_of_main(config: Config, grid: Grid) -> list[Path]:
    """One rank looks which there are: on a shared disk another may not see the newest yet."""
    told: dict[str, object] = {}
    try:
        if grid.is_main:
            told["folders"] = [str(folder) for folder in resume_folders(config)]
    except ConfigError as error:
        told["error"] = str(error)
    answer = exchange(told, grid)[0]
    if "error" in answer:
        raise ConfigError(answer["error"])
    return [Path(folder) for folder in answer["folders"]]


def share(records: Records, rank: int, ranks: int) -> list[str]:
    """The files that a rank reads: all have about as many bytes."""
    load = [0] * ranks
    own: list[str] = []
    for name in sorted(records, key=lambda name: (-records[name].size, name)):
        reader = load.index(min(load))
        load[reader] += records[name].size
        own += [name] if reader == rank else []
    return own
