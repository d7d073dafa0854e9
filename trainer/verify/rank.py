"""One rank of our own code: the passes it makes, and what it tells of each."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import islice
from typing import Any

import torch
from safetensors.torch import save_file

from configs.layout import Layout
from configs.load import load_config
from configs.schema import Config, GuardConfig
from configs.shapes import ModelShape
from trainer.build import build_model
from trainer.data.micro_batch import GlobalBatch, MicroBatch
from trainer.data.open import open_stream
from trainer.guard import Guard
from trainer.metrics import StepReport
from trainer.model.names import Table, row_offsets, stage_table
from trainer.parallel.exchange import exchange
from trainer.parallel.grid import Grid, start_grid
from trainer.stages import Ranges, divide, layer_costs
from trainer.step import StepParts, train_step
from trainer.verify.isolation import lost_positions, replaced, stream_leaks, unlike_restarts, with_neighbours
from trainer.verify.job import STEPS, Answer, Job, Tell, Who, rows_hash
from trainer.verify.observe import Observer
from trainer.verify.places import Place, sample_losses

_PATIENCE = timedelta(minutes=5)
"""That a rank has with the others in a collective."""
_SEED = 1


class _Unmoved(Guard):
    """Lets no step change the weights."""

    def fault(self, loss: float, norm: float, config: GuardConfig) -> str:
        return "only looked at"


def open_batches(job: Job, config: Config) -> list[GlobalBatch]:
    """The run's first batches, as its stream packs them."""
    stream = open_stream(config)
    return [GlobalBatch(tuple(islice(stream, job.rows))) for _ in range(STEPS)]


def run_rank(job: Job, who: Who, tell: Tell) -> None:
    """Make all passes as rank RANK of `who`; none where its processes have other rows than each other.

    Raises what a step raises.
    """
    layout = job.layout if who == "layout" else Layout(1, 1, 1)
    grid = start_grid(layout, _PATIENCE)
    config = load_config(job.config_file)
    batches = open_batches(job, config)
    own = rows_hash(row for batch in batches for row in batch.rows)
    tell("rows", {"hash": own})
    if {*exchange(own, grid)} != {own}:
        return  # of rows that differ, collectives of other sizes are made
    shape = ModelShape.from_folder(job.model)
    stages = divide(layer_costs(shape, config.data.sequence_length), layout)
    table = stage_table(shape, stages[grid.stage])
    rank = Rank(job, who, grid, config, shape, stages, table, tell)
    asked = rank.build(job.recompute if who == "layout" else "none", job.micro_rows)
    # The one process is there to tell a fault of the layout from one of the model: by its first step.
    for step, batch in enumerate(batches if who == "layout" else batches[:1], start=1):
        rank.take(asked, batch, f"step {step}", step, moves=step < STEPS)
    if who == "layout":
        rank.isolation(asked, batches[-1])
        other = rank.build(job.recompute, job.other_micro_rows)
        rank.take(other, batches[0], "cut", 1, moves=False)
        if job.recompute != "none":
            rank.take(rank.build("none", job.micro_rows), batches[0], "kept", 1, moves=False)


@dataclass(frozen=True)
class Rank:
    """What all passes of a rank share."""

    job: Job
    who: Who
    grid: Grid
    config: Config
    shape: ModelShape
    stages: tuple[Ranges, ...]
    table: Table
    tell: Tell

    def build(self, recompute: Any, micro_rows: int) -> Observer:
        """An engine with the small model's weights."""
        config = replace(
            self.config,
            model=replace(self.config.model, path=str(self.job.model)),
            parallel=replace(self.config.parallel, recompute=recompute),
            batch=replace(self.config.batch, micro_rows=micro_rows),
        )
        engine, loss = build_model(
            config, self.shape, self.grid, self.stages, self.table, range(0), load=True
        )
        names = tuple(source.name for source in config.data.sources)
        return Observer(StepParts(config, self.shape, self.grid, engine, loss, names, STEPS))

    def take(self, seen: Observer, batch: GlobalBatch, what: str, step: int, *, moves: bool) -> None:
        """A step, told as the pass `what`. Gradients are written where weights are those of the folder."""
        seen.begin(keeps_streams=not moves)
        report = self._step(seen, batch, step, moves)
        answer = self._answer(seen, batch, report)
        if step == 1 and self.grid.data_rank == 0:  # copies of the model hold the same: they put it together
            save_file(self._own_parts(seen.gradients), self.job.gradients(self.who, what, self.grid.rank))
        self.tell(what, answer)

    def isolation(self, seen: Observer, batch: GlobalBatch) -> None:
        """The batch, and the same with a sample of each row replaced, under the same weights.

        The last pass was of this batch, and left the weights as they are. It is made again where a row has one sample
        alone, which is cut in two.
        """
        whole = GlobalBatch(tuple(map(with_neighbours, batch.rows)))
        if any(one is not other for one, other in zip(whole.rows, batch.rows, strict=True)):
            seen.begin(keeps_streams=True)
            self._step(seen, whole, STEPS, moves=False)
        batch = whole
        other, changed = replaced(batch, self.shape.vocab, _SEED)
        micros = self._micros(seen, batch)
        streams, losses = [seen.streams], [self._sample_losses(seen, batch)]
        seen.begin(keeps_streams=True)
        self._step(seen, other, STEPS, moves=False)
        streams.append(seen.streams)
        losses.append(self._sample_losses(seen, other))
        tensor = self.grid.layout.tensor
        part = (self.grid.tensor_rank, tensor) if self.grid.sequence_parallel else (0, 1)
        place = self._place(seen)
        leaks = stream_leaks(streams[0], streams[1], batch, place, micros, changed, part)
        apart = [
            (row, sample, abs(one - two) / max(1.0, abs(one)), changed[row] == sample)
            for (row, sample, one), (_, _, two) in zip(*losses, strict=True)
        ]
        told: Answer = {
            "stage": self.grid.stage,
            "leaks": leaks,
            "losses": apart,
            "positions": [*lost_positions(streams[0], micros), *unlike_restarts(batch.rows)],
            "samples": sum(len(row.samples) for row in batch.rows),
        }
        self.tell("isolation", told)

    def _step(self, seen: Observer, batch: GlobalBatch, step: int, moves: bool) -> StepReport:
        return train_step(seen.parts, batch, step, Guard() if moves else _Unmoved()).report

    def _answer(self, seen: Observer, batch: GlobalBatch, report: StepReport) -> Answer:
        return {
            "loss": report.loss,
            "by_source": report.loss_by_source,
            "norm": report.grad_norm,
            "samples": self._sample_losses(seen, batch),
            "targets": [int((micro.labels >= 0).sum()) for micro in self._micros(seen, batch)],
        }

    def _sample_losses(self, seen: Observer, batch: GlobalBatch) -> list[tuple[int, int, float]]:
        if not seen.parts.loss.is_here:
            return []
        return sample_losses(seen.losses, batch, self._place(seen), self._micros(seen, batch))

    def _micros(self, seen: Observer, batch: GlobalBatch) -> list[MicroBatch]:
        return batch.micro_batches(
            self.grid.data_rank, self.grid.layout.data, seen.parts.config.batch.micro_rows
        )

    def _place(self, seen: Observer) -> Place:
        return Place(self.grid.data_rank, self.grid.layout.data, seen.parts.config.batch.micro_rows)

    def _own_parts(self, gradients: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """By Hugging Face name, this tensor rank's part of each; of what all tensor ranks hold alike too."""
        found: dict[str, torch.Tensor] = {}
        rank, tensor = self.grid.tensor_rank, self.grid.layout.tensor
        for name, pieces in self.table.items():
            for piece, offset in zip(pieces, row_offsets(pieces, tensor), strict=True):
                start, stop = piece.bounds(rank, tensor)
                held = gradients[name].narrow(0, offset, piece.slice_shape(tensor)[0])
                if piece.split != "none":
                    held = held.narrow(int(piece.split == "columns"), 0, stop - start)  # without padding
                found[piece.name] = held.contiguous()
        return found


def run_peer(job: Job, tell: Tell) -> None:
    """The same steps by transformers and torch alone."""
    from transformers.utils import logging

    from trainer.verify.peer import load, peer_steps, unpack  # seconds, which ranks do without

    logging.disable_progress_bar()

    config = load_config(job.config_file)
    batches = open_batches(job, config)
    tell("rows", {"hash": rows_hash(row for batch in batches for row in batch.rows)})
    unpacked = [
        [unpack(row.tokens, row.labels, row.positions, row.filled, row.sources) for row in batch.rows]
        for batch in batches
    ]
    names = [source.name for source in config.data.sources]
    for number, step in enumerate(peer_steps(load(job.model), unpacked, config.optimizer), start=1):
        sums: dict[str, float] = {}
        counts: dict[str, int] = {}
        samples: list[tuple[int, int, float]] = []
        for r, row in enumerate(unpacked[number - 1]):
            for s, sample in enumerate(row):
                if targets := sum(sample["trained"]):
                    name, loss = names[sample["source"]], step.samples[r][s]
                    sums[name] = sums.get(name, 0.0) + loss
                    counts[name] = counts.get(name, 0) + targets
                    samples.append((r, s, loss))
        if number == 1:
            save_file(step.gradients, job.gradients("peer", "step 1", 0))
        by_source = {name: sums[name] / counts[name] for name in names if name in sums}
        answer: Answer = {"loss": step.loss, "by_source": by_source, "norm": step.norm, "samples": samples}
        tell(f"step {number}", answer)
