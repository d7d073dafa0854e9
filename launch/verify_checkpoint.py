"""`agenttune verify-checkpoint`: whether a checkpoint is what was written, and its parts of one model and step."""

from __future__ import annotations

import sys
from pathlib import Path

from tqdm import tqdm

from configs.errors import ConfigError
from launch.arguments import Parser
from trainer.checkpoint.choice import check_is_one
from trainer.checkpoint.manifest import DamagedError, read_manifest

_DESCRIPTION = """\
Reads every byte of a checkpoint and compares it with what was written: each file's size and checksum, that
weights and training state are there for every tensor of the model, finite, and of the same values, and how far
the run had come. The exit code is 1 for a damaged one."""
_EXAMPLE = "example: agenttune verify-checkpoint runs/demo/checkpoints/step-00000160"


def main(argv: list[str]) -> int:
    parser = Parser("agenttune verify-checkpoint", description=_DESCRIPTION, epilog=_EXAMPLE)
    parser.add_argument("folder", type=Path, metavar="DIR", help="a checkpoint's folder")
    folder: Path = parser.parse_args(argv).folder
    if not folder.is_dir():
        raise ConfigError(
            f"{folder}: no such folder; name a checkpoint, such as runs/demo/checkpoints/step-00000160"
        )
    check_is_one(folder)
    try:
        _verify(folder)
    except DamagedError as error:
        print(f"damaged: {error}", file=sys.stderr)
        return 1
    return 0


def _verify(folder: Path) -> None:
    size = sum(record.size for record in read_manifest(folder).values())

    from trainer.checkpoint.verify import verify  # torch takes seconds

    print(folder)
    with tqdm(total=size, unit="B", unit_scale=True, leave=False, disable=None, delay=1) as progress:
        for found in verify(folder, progress.update):
            # tqdm's own, which takes the bar away from the terminal for as long as it writes.
            tqdm.write(f"  {found.what:16}{found.told}", file=sys.stdout)
    print("sound")
