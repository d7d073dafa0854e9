"""One rank of a training job, from the launcher's environment to its exit code."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from configs.errors import ConfigError
from configs.load import load_config
from configs.schema import Config
from configs.weights import check_weights
from launch.ancestors import die_with_launcher
from launch.environment import library_environment
from launch.preflight import check_settings
from launch.waiting_launcher import hear_no_more
from tokenization.errors import DataError
from trainer.checkpoint.choice import resume_folders
from trainer.checkpoint.progress import model_digest
from trainer.checkpoint.store import CheckpointError
from trainer.data.ahead import start_workers
from trainer.data.open import open_data
from trainer.guard import GuardError
from trainer.watchdog import Watchdog

ALIKE = (ConfigError, DataError, GuardError, CheckpointError)
"""What all ranks meet."""


def run_rank(path: str, overrides: Sequence[str]) -> int:
    """Train as rank RANK of WORLD_SIZE. Returns 0, or 75 when stopped by a signal after saving.

    Errors in the config and the data, a checkpoint given up and what guards found are met by all ranks alike, so one
    raises them and the others wait to be ended, seconds at most, and return the error's code. A rank that is the only
    one without data says so before. Any other error names its rank.
    """
    die_with_launcher()
    warnings.simplefilter("ignore")
    for name, value in library_environment().items():
        os.environ.setdefault(name, value)
    rank = int(os.environ["RANK"])
    watch = Watchdog(rank)
    try:
        with watch:
            config = load_config(path, overrides)
            watch.limit_s = config.run.hang_seconds
            watch.code = _train(config, watch)
        hear_no_more()
        return watch.code
    except ALIKE as error:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if watch.tells():
            if watch.is_alone():
                print(
                    f"agenttune: rank {rank} alone ends the training: others have got past this",
                    file=sys.stderr,
                )
            raise
        return getattr(error, "exit_code", 1)
    except Exception as error:
        raise RuntimeError(f"rank {rank}: {type(error).__name__}: {error}") from error


def _train(config: Config, watch: Watchdog) -> int:
    model = model_digest(Path(config.model.path))
    layout, builder = check_settings(config, int(os.environ["WORLD_SIZE"]))
    if not resume_folders(config):
        check_weights(Path(config.model.path))  # before the data are indexed
    first = os.environ.get("LOCAL_RANK", "0") == "0"
    data = open_data(config, builder, first=first, workers=config.data.workers)
    if first:
        start_workers(data.stream(config), config.data.workers)
    import torch.distributed as dist

    from trainer.build import build_run
    from trainer.loop import train
    from trainer.parallel.grid import stop_grid

    run = build_run(config, layout, data, model)
    logs = run.tracker.close if run.tracker else lambda: None
    try:
        code = train(run)
    except BaseException as error:
        if isinstance(error, ALIKE):
            watch.meets_alike()
        try:
            logs()
        except OSError as other:  # of a full disk, say: it must not hide why the run ends
            print(other, file=sys.stderr)
        raise
    logs()
    dist.barrier()  # nobody leaves before rank 0 has closed its logs: a launcher would take the rest down
    stop_grid()
    return code
