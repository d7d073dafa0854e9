"""What test ranks can be asked to do. Arguments and answers are JSON; tensors go through files."""

from __future__ import annotations

import resource
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from rank_runs import Sample, built, exported, limit_shards, packed, take_steps
from torch.testing._internal.distributed.fake_pg import FakeStore
from verify_faults import plant

from configs.layout import Layout
from configs.shapes import ModelShape
from trainer import loop
from trainer.checkpoint import choice, saver
from trainer.checkpoint.slices import PartReader
from trainer.data.micro_batch import GlobalBatch, global_batches
from trainer.guard import Guard
from trainer.loop import save, saver_of, train
from trainer.model.layers import Parts
from trainer.model.names import Piece
from trainer.model.stack import llama_layers
from trainer.parallel.cpu import prepare_cpu_host
from trainer.parallel.grid import current_grid, stop_grid
from trainer.stages import divide, layer_costs
from trainer.step import train_step
from trainer.verify.job import Answer, Job, Who
from trainer.verify.rank import run_rank


def train_steps(
    config: str, overrides: list[str], steps: int, export: str | None = None
) -> list[dict[str, Any]]:
    """Take `steps` steps of a run and return their reports; `export` names a folder for the weights after."""
    run = built(config, overrides)
    reports = take_steps(run, global_batches(run.stream, run.parts.config.batch.rows), steps)
    if export:
        exported(run, Path(export))
    return reports


def train_hashes(config: str, overrides: list[str], hashes: list[str]) -> list[str]:
    """A step for each hash of the data; "*" in one stands for the rank. Returns the hashes reported."""
    run = built(config, overrides)
    batches = global_batches(run.stream, run.parts.config.batch.rows)
    reported: list[str] = []
    for step, mark in enumerate(hashes, start=1):
        data_hash = mark.replace("*", str(run.parts.grid.rank))
        taken = train_step(run.parts, next(batches), step, Guard(), data_hash=data_hash)
        reported.append(taken.report.data_hash)
    return reported


def train_rows(config: str, overrides: list[str], batches: list[list[list[Sample]]]) -> list[dict[str, Any]]:
    """A step over each batch of rows of samples. `token_losses`: a list per micro-batch, on the last stage."""
    run = built(config, overrides)
    length, loss = run.parts.config.data.sequence_length, run.parts.loss
    taken: list[list[float]] = []
    compute = loss.token_losses

    def observed(hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        losses = compute(hidden, targets)
        taken.append(losses.flatten().tolist())
        return losses

    loss.token_losses = observed
    reports: list[dict[str, Any]] = []
    for batch in batches:
        rows = tuple(packed(samples, index, length) for index, samples in enumerate(batch))
        reports += take_steps(run, iter([GlobalBatch(rows)]), 1)
        reports[-1]["token_losses"] = taken.copy()
        taken.clear()
    return reports


def train_run(
    config: str,
    overrides: list[str],
    full_disk: dict[str, int] | None = None,
    max_bytes: int | None = None,
    small: int | None = None,
    drawn: bool = False,
    began_with: str | None = None,
) -> int:
    """The whole run with its checkpoints, weights in files of at most `max_bytes`; returns the exit code.

    small: bytes of a file that every rank reads when it resumes; larger ones are divided among them
    drawn: the loss has a factor that each rank draws, as dropout would
    began_with: `model_digest` of the model's folder when the ranks first read of it

    `full_disk` {"rank", "step", "bytes"}: that rank can write no file beyond so many bytes while it saves that
    step. The operating system refuses, so whatever library writes meets its own kind of error.
    """
    limit_shards(max_bytes)
    choice.SMALL = choice.SMALL if small is None else small
    run = built(config, overrides, began_with)
    if drawn:
        losses = run.parts.loss.token_losses
        run.parts.loss.token_losses = lambda hidden, targets: losses(hidden, targets) * (0.5 + torch.rand(()))
    if full_disk and run.parts.grid.rank == full_disk["rank"]:
        commit = saver.commit

        def limited(checkpoints: Path, step: int, *rest: Any) -> Path:
            before = resource.getrlimit(resource.RLIMIT_FSIZE)
            if step == full_disk["step"]:
                resource.setrlimit(resource.RLIMIT_FSIZE, (full_disk["bytes"], before[1]))
            try:
                return commit(checkpoints, step, *rest)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, before)

        saver.commit = limited
    code = train(run)
    if run.tracker:
        run.tracker.close()
    return code


def steps_beside_saves(config: str, overrides: list[str]) -> list[int]:
    """Train where each save in the background waits until two more steps have begun: the steps of those saves."""
    run = built(config, overrides)
    commit, take_step = saver.commit, loop.train_step
    more, begun, waited = threading.Condition(), 0, list[int]()

    def counted(*arguments: Any) -> Any:
        nonlocal begun
        with more:
            begun = arguments[2]
            more.notify_all()
        return take_step(*arguments)

    def patient(checkpoints: Path, step: int, *rest: Any) -> Path:
        if threading.current_thread() is not threading.main_thread():
            with more:
                assert more.wait_for(lambda: begun >= step + 2, timeout=30), (
                    f"no step beside the save of {step}"
                )
            waited.append(step)
        return commit(checkpoints, step, *rest)

    saver.commit, loop.train_step = patient, counted
    assert loop.train(run) == 0
    if run.tracker:
        run.tracker.close()
    return waited


def save_and_go_on(config: str, overrides: list[str], max_bytes: int | None = None) -> float:
    """Resume, save what was read as this layout saves it, and take one step more; returns its loss."""
    limit_shards(max_bytes)
    run = built(config, overrides)
    save(run, saver_of(run), run.done, run.stream.state(), run.guard, ends=True)
    (report,) = take_steps(run, global_batches(run.stream, run.parts.config.batch.rows), 1)
    return report["loss"]


def read_to_go_on(config: str, overrides: list[str]) -> dict[str, int]:
    """Numbers of each kind that this rank reads of a training state when it resumes."""
    found: Counter[str] = Counter()
    read = PartReader.read

    def counted(self: PartReader, piece: Piece, kind: str, tensor_rank: int, tensor: int) -> torch.Tensor:
        slice_ = read(self, piece, kind, tensor_rank, tensor)
        found[kind] += slice_.numel()
        return slice_

    PartReader.read = counted
    try:
        built(config, overrides)
    finally:
        PartReader.read = read
    return dict(found)


def convert(config: str, overrides: list[str], export: str, max_bytes: int | None = None) -> None:
    """Read the model into the ranks and write it out again, in files of at most `max_bytes`."""
    limit_shards(max_bytes)
    exported(built(config, overrides), Path(export))


def stage_parameters(
    shape: str, sequence_length: int, sizes: list[int], ranks: list[int]
) -> dict[str, dict[str, list[int]]]:
    """Name and shape of each parameter that `ranks` of a [tensor, pipeline, data] layout hold.

    Nothing is allocated and nobody else has to be there: fake process groups, and the meta device.
    """
    prepare_cpu_host()
    layout, model = Layout(*sizes, sequence=True), ModelShape.from_folder(shape)
    stages = divide(layer_costs(model, sequence_length), layout)
    found: dict[str, dict[str, list[int]]] = {}
    for rank in ranks:
        dist.init_process_group("fake", rank=rank, world_size=layout.world_size, store=FakeStore())
        parallel_state.initialize_model_parallel(
            layout.tensor, layout.pipeline, create_gloo_process_groups=False
        )
        grid = current_grid(layout)
        layers = llama_layers(Parts(model, grid, torch.bfloat16))
        with torch.device("meta"):
            found[str(rank)] = {
                f"{index}.{name}": list(parameter.shape)
                for part in stages[grid.stage]
                for index in part
                for name, parameter in layers[index].build().named_parameters()
            }
        stop_grid()
    return found


def verify_passes(job: str, who: Who, fault: str | None) -> list[tuple[str, Answer]]:
    """What a rank of `agenttune verify` tells, in order; with a fault of `verify_faults.py` in its code."""
    if fault:
        plant(fault)
    told: list[tuple[str, Answer]] = []
    run_rank(Job.from_json(job), who, lambda what, answer: told.append((what, answer)))
    return told
