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
from launch.errors import exit_code, one_line
from launch.preflight import check_settings
from launch.rank_log import RankLog
from launch.waiting_launcher import hear_no_more
from tokenization.errors import DataError
from trainer.checkpoint.choice import resume_folders
from trainer.checkpoint.progress import model_digest
from trainer.checkpoint.store import CheckpointError
from trainer.data.ahead import start_workers
from trainer.data.notices import LAUNCHER_VARIABLE
from trainer.data.open import open_data
from trainer.guard import GuardError
from trainer.start_up import phase_done
from trainer.watchdog import Watchdog

ALIKE = (ConfigError, DataError, GuardError, CheckpointError)
"""What all ranks meet."""


def run_rank(path: str, overrides: Sequence[str]) -> int:
    """Train as rank RANK of WORLD_SIZE. Returns 0, or 75 when stopped by a signal after saving, or an error's code.

    Errors in the config and the data, a checkpoint given up and what guards found are met by all ranks alike, so one
    tells of them and the others wait to be ended, seconds at most. A rank that is the only one without data says so.
    Any other error names its rank; one that only follows from another rank's end is left to the rank's log.
    """
    die_with_launcher()
    warnings.simplefilter("ignore")
    for name, value in library_environment().items():
        os.environ.setdefault(name, value)
    rank = int(os.environ["RANK"])
    watch, log = Watchdog(rank), RankLog(rank)
    try:
        with watch:
            config = load_config(path, overrides)
            watch.limit_s = config.run.hang_seconds
            watch.code = _train(config, watch, log)
        hear_no_more()
        return watch.code
    except ALIKE as error:
        log.error(error)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if watch.tells():
            alone = f"rank {rank} alone ends the training: others have got past this\n"
            _tell(watch, (alone if watch.is_alone() else "") + one_line(error))
        return exit_code(error)
    except Exception as error:
        where = log.error(error)
        before = None if LAUNCHER_VARIABLE in os.environ else watch.failed_before()
        if before is None:
            _tell(watch, f"rank {rank}: {one_line(error)}{where}")
        elif before:
            ended = " and ".join(f"rank {each}" for each in before)
            _tell(watch, f"{ended} ended before its work was done, and the others with it{where}")
        return 1


def _tell(watch: Watchdog, said: str) -> None:
    """`agenttune train` tells for its ranks: it knows which failed first, on which machine."""
    if LAUNCHER_VARIABLE in os.environ:
        watch.board.tell(said)
        return
    for line in said.splitlines():
        print(f"agenttune: {line}", file=sys.stderr)


def _train(config: Config, watch: Watchdog, log: RankLog) -> int:
    phase_done("interpreter")
    model = model_digest(Path(config.model.path))
    layout, builder = check_settings(config, int(os.environ["WORLD_SIZE"]))
    log.begin(Path(config.run.output_dir))
    if not resume_folders(config):
        check_weights(Path(config.model.path))  # before the data are indexed
    first = os.environ.get("LOCAL_RANK", "0") == "0"
    data = open_data(config, builder, first=first, workers=config.data.workers)
    if first:
        start_workers(data.stream(config), config.data.workers)
    phase_done("tokenizer and data")
    import torch.distributed as dist

    from trainer.build import build_run
    from trainer.loop import train
    from trainer.parallel.grid import stop_grid

    phase_done("torch and engines")
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
