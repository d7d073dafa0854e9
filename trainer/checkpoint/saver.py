"""Checkpoints written at once, or in the background from a copy while training goes on."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from threading import Thread

import torch

from configs.schema import Config
from configs.shapes import ModelShape
from tokenization.builder import SampleBuilder
from trainer.checkpoint.hf_export import write_index, write_shards
from trainer.checkpoint.manifest import Records
from trainer.checkpoint.postponed import Postponed
from trainer.checkpoint.progress import Progress, is_doubtful
from trainer.checkpoint.read_back import ReadBack
from trainer.checkpoint.replicas import check_replicas
from trainer.checkpoint.shards import shard_plan
from trainer.checkpoint.slices import saved_parts
from trainer.checkpoint.store import commit, prune
from trainer.checkpoint.texts import write_texts
from trainer.checkpoint.training_state import Snapshot, snapshots, write_parts, write_progress
from trainer.model.names import owned_table
from trainer.parallel.engine import Engine
from trainer.parallel.exchange import exchange
from trainer.parallel.grid import Grid
from trainer.random_states import random_states
from trainer.stages import Ranges

GIVEN_UP = ".given-up"
"""In the folder of a checkpoint that a rank could not write its part of."""


class Saver:
    """Writes and commits the checkpoints of a run, one after the other.

    All ranks call `save` and `settle` at the same steps. What goes on in the background has process groups of its own.
    """

    def __init__(
        self,
        config: Config,
        builder: SampleBuilder,
        shape: ModelShape,
        stages: Sequence[Ranges],
        engine: Engine,
        grid: Grid,
    ) -> None:
        self._config, self._builder, self._shape = config, builder, shape
        self._engine, self._grid = engine, grid
        self._checkpoints = Path(config.run.output_dir) / "checkpoints"
        self._dtype: torch.dtype = getattr(torch, config.model.dtype)
        self._plan = shard_plan(shape, stages, self._dtype.itemsize, grid.layout)
        self._parts = saved_parts(shape, stages, grid.layout.tensor, self._plan)
        self._table = owned_table(shape, stages, grid.stage)
        self._thread: Thread | None = None
        self._failure: BaseException | None = None
        self._news: deque[str] = deque()
        self._told: set[str] = set()

    @property
    def failed(self) -> bool:
        """The checkpoint in the background came to nothing, here or on any rank; `settle` tells why."""
        return self._failure is not None

    def save(self, progress: Progress, *, background: bool) -> None:
        """Write the checkpoint of `progress`, whose random states are added here. Waits for the one before.

        In the background, returns when the state is copied. Raises what `settle` raises, and where it waits for the
        end also what `trainer.checkpoint.store.commit` raises.
        """
        self.settle()
        progress = replace(progress, random=exchange(random_states(), self._grid))
        held = snapshots(self._engine, self._plan, self._grid)
        if background:
            self._thread = Thread(target=self._try, args=(progress, _given_up(deque(held))), daemon=True)
            self._thread.start()
        else:
            self._write(progress, held)

    def settle(self) -> None:
        """Wait for the checkpoint in the background. Raises what kept it from being committed."""
        if self._thread:
            self._thread.join()
            self._thread = None
        if self._failure:
            raise self._failure

    def news(self) -> Iterator[str]:
        """What has come of checkpoints since this was last asked; on rank 0."""
        while self._news:
            yield self._news.popleft()

    def _try(self, progress: Progress, held: Iterator[Snapshot]) -> None:
        try:
            self._write(progress, held)
        except BaseException as failure:
            self._failure = failure

    def _write(self, progress: Progress, held: Iterator[Snapshot]) -> None:
        def write(folder: Path) -> Records:
            failures = Postponed(folder / GIVEN_UP)
            texts: Records = {}
            tensors: Records = {}
            with ReadBack(folder) as back:
                # In rounds of as many as there are tensor ranks, which then have one weight file each to write.
                tensor = self._grid.layout.tensor
                while (records := self._write_some(folder, list(islice(held, tensor)), failures)) is not None:
                    back.add(records)
                if self._grid.is_main:
                    with failures.attempt():
                        texts |= write_index(folder, self._plan, self._shape, self._dtype.itemsize)
                        texts |= write_progress(folder, self._parts, progress)
                        texts |= write_texts(
                            folder, self._config, self._builder, self._shape.vocab, progress.model
                        )
                with failures.attempt():
                    tensors = back.settle()
            failures.settle()
            return texts | tensors

        folder = commit(self._checkpoints, progress.step, self._grid, write, self._news.append)
        if self._grid.is_main:
            try:
                prune(self._checkpoints, self._config.checkpoint.keep, is_doubtful, self._tell_once)
            except OSError as error:  # no reason to end a run whose checkpoint is safe
                self._tell_once(f"old checkpoints could not be looked for: {error}")
            self._news.append(f"checkpoint of step {progress.step}: {folder}")

    def _tell_once(self, said: str) -> None:
        """What would be said again after each save."""
        if said not in self._told:
            self._told.add(said)
            self._news.append(said)

    def _write_some(self, folder: Path, some: list[Snapshot], failures: Postponed) -> Records | None:
        """Write what this rank has of some shards; None where there are none. They are let go of at its end."""
        if not some:
            return None
        weights = {
            snapshot.shard: {name: state["master"] for name, state in snapshot.state.items()}
            for snapshot in some
        }
        written = write_shards(folder, weights, self._table, self._dtype, self._grid, failures)
        for snapshot in some:
            with failures.attempt():
                check_replicas(snapshot, self._table, self._grid)
            with failures.attempt():
                failures.look()
                written |= write_parts(folder, snapshot, self._table, self._grid)
        return written


def _given_up(held: deque[Snapshot]) -> Iterator[Snapshot]:
    """One after another, each let go of when the next is asked for."""
    while held:
        yield held.popleft()
