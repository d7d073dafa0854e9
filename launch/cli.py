"""The `agenttune` command: finds the subcommand, and turns errors into one line and an exit code.

0 success, 1 any other error, 2 a bad config, 3 bad data, 130 interrupted. A command's module is imported only
when it runs, so that `--help` and mistakes answer at once.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import NamedTuple

from configs.errors import ConfigError
from launch.errors import exit_code, one_line


class Command(NamedTuple):
    module: str
    """Has `main(argv: list[str]) -> int`."""
    summary: str
    example: str


COMMANDS = {
    "train": Command(
        "launch.train",
        "start tensor x pipeline x data processes and train",
        "agenttune train configs/llama2_7b.yaml model.path=models/Llama-2-7b-chat-hf optimizer.lr=1e-4",
    ),
    "submit": Command(
        "launch.submit",
        "the same as a job of Slurm",
        "agenttune submit configs/llama2_70b.yaml --nodes 4 --partition gpu --dry-run",
    ),
    "preview": Command(
        "launch.preview",
        "show samples or packed rows as the model will see them",
        "agenttune preview configs/demo.yaml --count 2",
    ),
    "lint": Command(
        "launch.lint",
        "report faults in agent data with file and line",
        "agenttune lint configs/demo.yaml",
    ),
    "plan": Command(
        "launch.plan",
        "memory, traffic and time of a run, and the layouts that work, fastest first",
        "agenttune plan configs/llama2_70b.yaml --shape llama2-70b --gpus 32",
    ),
    "verify": Command(
        "launch.verify",
        "compare the layout with one process and transformers, on your rows, on a CPU",
        "agenttune verify configs/demo.yaml parallel.data=2 parallel.sequence=true",
    ),
    "report": Command(
        "launch.report",
        "one HTML page of a run: curves and tables",
        "agenttune report runs/demo",
    ),
    "verify-checkpoint": Command(
        "launch.verify_checkpoint",
        "every file's checksum, and that weights and training state agree",
        "agenttune verify-checkpoint runs/demo/checkpoints/step-00000160",
    ),
    "init-model": Command(
        "launch.init_model",
        "make a randomly initialised Hugging Face folder",
        "agenttune init-model runs/demo-model --shape tiny --tokenizer configs/demo/tokenizer --seed 1",
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code.

    An error is one line on stderr, after its traceback where --traceback stands anywhere among the arguments.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    verbose = "--traceback" in arguments
    arguments = [argument for argument in arguments if argument != "--traceback"]
    try:
        code = _run(arguments)
        print(end="", flush=True)
        return code
    except KeyboardInterrupt:
        print("agenttune: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output went away (`| head`). Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        if verbose:
            traceback.print_exc()
        print(f"agenttune: {one_line(error)}", file=sys.stderr)
        return exit_code(error)


def usage() -> str:
    """The text of `agenttune --help`."""
    width = max(map(len, COMMANDS))
    summaries = "\n".join(f"  {name:{width}}  {command.summary}" for name, command in COMMANDS.items())
    examples = "\n".join(f"  {command.example}" for command in COMMANDS.values())
    return (
        "usage: agenttune COMMAND [ARGUMENT …] [--traceback]\n\n"
        "Fine-tunes Llama 2 chat models into agents that call functions.\n\n"
        f"commands:\n{summaries}\n\nexamples:\n{examples}\n\n"
        "`agenttune COMMAND --help` tells more. A CONFIG is a YAML file; KEY=VALUE after it changes a\n"
        "setting of it, inside lists too (data.sources.0.weight=2). Relative paths in a config are read\n"
        "from the working directory. --traceback shows where an error came from."
    )


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage(), file=sys.stdout if arguments else sys.stderr)
        return 0 if arguments else 2
    name = arguments[0]
    if name not in COMMANDS:
        near = get_close_matches(name, COMMANDS, n=1, cutoff=0.0)[0]
        raise ConfigError(f"{name}: no such command; did you mean {near}? see agenttune --help")
    try:
        return import_module(COMMANDS[name].module).main(arguments[1:])
    except SystemExit as exit_:  # argparse: 0 after --help, 2 after a wrong argument
        return exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)


if __name__ == "__main__":
    sys.exit(main())
