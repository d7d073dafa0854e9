"""`agenttune train`, and what each rank of a launcher runs: `deepspeed launch/train.py CONFIG [KEY=VALUE …]`.

Without RANK in the environment it checks the config and starts the ranks; with it, it is one.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":  # run by its path: import our packages from the checkout, not from this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])


def parse(argv: Sequence[str]) -> tuple[str, list[str]]:
    """Config path and overrides."""
    from launch.arguments import Parser

    parser = Parser(
        prog="agenttune train",
        description="Fine-tune a Llama-architecture model under tensor x pipeline x data parallelism.",
        epilog="example: agenttune train configs/llama2_7b.yaml model.path=models/Llama-2-7b-chat-hf "
        "optimizer.lr=1e-4. Relative paths are read from the working directory. The same ranks are started by "
        "`deepspeed --num_gpus 4 launch/train.py CONFIG` and `torchrun --nproc-per-node 4 launch/train.py CONFIG`. "
        "SIGTERM or SIGUSR1 saves a checkpoint after the step in progress and exits 75, Ctrl-C likewise with 130 "
        "(pressed twice it does not save). The same command goes on from the newest checkpoint in run.output_dir, "
        "under the same layout or another; checkpoint.resume=FOLDER goes back to that one, or begins with one of "
        "another run, checkpoint.resume=never begins afresh.",
    )
    parser.add_argument("config", metavar="CONFIG", help="YAML file, see configs/")
    parser.add_argument(
        "overrides", metavar="KEY=VALUE", nargs="*", default=[], help="settings that replace the file's"
    )
    parser.add_argument("--local_rank", help=argparse.SUPPRESS)  # DeepSpeed's launcher adds it
    values = parser.parse_intermixed_args(argv)
    return values.config, values.overrides


def main(argv: Sequence[str]) -> int:
    config, overrides = parse(argv)
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        from launch.rank import run_rank

        return run_rank(config, overrides)
    from launch.waiting_launcher import waiting_launcher
    from trainer.start_up import BEGAN, command_began

    os.environ[BEGAN] = str(command_began())

    with waiting_launcher() as launcher:  # before the imports of all that checks the settings
        from launch.processes import run_processes

        return run_processes(config, overrides, launcher)


if __name__ == "__main__":
    from launch.cli import main as command

    sys.exit(command(["train", *sys.argv[1:]]))
