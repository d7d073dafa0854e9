"""What test ranks can be asked to do. Arguments and answers are JSON; tensors go through files."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from megatron.core import parallel_state
from torch.testing._internal.distributed.fake_pg import FakeStore
from verify_faults import plant

from configs.check import check_config
from configs.layout import Layout
from configs.load import load_config
from configs.shapes import ModelShape
from tokenization.sample import TokenizedSample
from trainer import loop
from trainer.build import build_run
from trainer.checkpoint import choice, saver, store
from trainer.checkpoint.slices import PartReader
from trainer.data.held_out import HeldOut
from trainer.data.micro_batch import GlobalBatch, global_batches
from trainer.data.packing import pack_row
from trainer.evaluate import evaluate
from trainer.guard import Guard
from trainer.loop import Run, save, saver_of, train
from trainer.loss import TargetLoss
from trainer.model.layers import Parts
from trainer.model.names import Piece
from trainer.model.stack import llama_layers
from trainer.parallel.cpu import prepare_cpu_host
from trainer.parallel.grid import current_grid, start_grid, stop_grid
from trainer.stages import divide, layer_costs
from trainer.step import train_step
from trainer.verify.job import Answer, Job, Who
from trainer.verify.rank import run_rank

Sample = dict[str, Any]
"""{"tokens": [int], "trained": [bool], "source": index}, and "kinds": [SpanKind] where they matter."""


def train_steps(
    config: str, overrides: list[str], steps: int, export: str | None = None
) -> list[dict[str, Any]]:
    """Take `steps` steps of a run and return their reports; `export` names a folder for the weights after."""
    run = _build(config, overrides)
    reports = _steps(run, global_batches(run.stream, run.parts.config.batch.rows), steps)
    if export:
        _export(run, Path(export))
    return reports


def train_hashes(config: str, overrides: list[str], hashes: list[str]) -> list[str]:
    """A step for each hash of the data; "*" in one stands for the rank. Returns the hashes reported."""
    run = _build(config, overrides)
    batches = global_batches(run.stream, run.parts.config.batch.rows)
    reported: list[str] = []
    for step, mark in enumerate(hashes, start=1):
        data_hash = mark.replace("*", str(run.parts.grid.rank))
        taken = train_step(run.parts, next(batches), step, Guard(), data_hash=data_hash)
        reported.append(taken.report.data_hash)
    return reported


def train_rows(config: str, overrides: list[str], batches: list[list[list[Sample]]]) -> list[dict[str, Any]]:
    """A step over each batch of rows of samples. `token_losses`: a list per micro-batch, on the last stage."""
    run = _build(config, overrides)
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
        rows = tuple(_row(samples, index, length) for index, samples in enumerate(batch))
        reports += _steps(run, iter([GlobalBatch(rows)]), 1)
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
    _limit_shards(max_bytes)
    choice.SMALL = choice.SMALL if small is None else small
    run = _build(config, overrides, began_with)
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
    run = _build(config, overrides)
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
    _limit_shards(max_bytes)
    run = _build(config, overrides)
    save(run, saver_of(run), run.done, run.stream.state(), run.guard, ends=True)
    (report,) = _steps(run, global_batches(run.stream, run.parts.config.batch.rows), 1)
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
        _build(config, overrides)
    finally:
        PartReader.read = read
    return dict(found)


def evaluate_rows(config: str, overrides: list[str], rows: list[list[Sample]]) -> dict[str, Any]:
    """The report on rows of samples, under the weights that a run begins with."""
    run = _build(config, overrides)
    return asdict(evaluate(run.parts, _looked_at(run, rows), 0)[0])


def steps_between(
    config: str, overrides: list[str], steps: int, rows: list[list[Sample]] | None
) -> dict[str, Any]:
    """Take steps; with `rows`, evaluate them before the first and after each. What all of it has come to."""
    run = _build(config, overrides)
    batches = global_batches(run.stream, run.parts.config.batch.rows)
    engine = run.parts.engine
    reports: list[Any] = []
    for step in range(1, steps + 1):
        if rows:
            evaluate(run.parts, _looked_at(run, rows), step - 1)
        report = train_step(run.parts, next(batches), step, Guard()).report
        reports.append([report.loss, report.grad_norm, report.loss_by_source, report.loss_by_kind])
    if rows:
        evaluate(run.parts, _looked_at(run, rows), steps)
    digest = blake2b(torch.get_rng_state().numpy().tobytes())
    for parameter in engine.parameters().values():
        for tensor in engine.read_state(parameter).values():
            digest.update(tensor.numpy().tobytes())
    inner = engine._engine  # DeepSpeed's
    counters = {
        f"{type(each).__name__}.{name}": value
        for each in (inner, inner.module, inner.optimizer)
        for name, value in vars(each).items()
        if isinstance(value, int | float | str | bool)
    }
    return {"reports": reports, "state": digest.hexdigest(), "counters": counters}


def stopped_while_evaluating(config: str, overrides: list[str], step: int, rank: int) -> int:
    """The whole run, where `rank` alone is told to stop while all evaluate after `step`; returns the exit code."""
    run = _build(config, overrides)
    sound = loop.evaluate

    def signalled(*arguments: Any) -> Any:
        if arguments[2] == step and run.parts.grid.rank == rank:
            os.kill(os.getpid(), signal.SIGTERM)
        return sound(*arguments)

    loop.evaluate = signalled
    code = train(run)
    if run.tracker:
        run.tracker.close()
    return code


def predicted(head: list[list[float]], hidden: list[list[float]]) -> list[int]:
    """What a loss over all ranks as tensor ranks predicts from hidden states, under an output matrix of `head` rows."""
    tensor = int(os.environ["WORLD_SIZE"])
    grid = start_grid(Layout(tensor, 1, 1))
    loss = TargetLoss(len(head), len(head[0]), 1, grid.tensor_group, grid.device)
    part = -(-len(head) // tensor)
    padded = torch.zeros(part * tensor, len(head[0]))  # a logit of 0 where nothing is
    padded[: len(head)] = torch.tensor(head)
    loss.bind_head(padded[part * grid.tensor_rank :][:part])
    return loss.predicted(torch.tensor(hidden)[:, None]).tolist()


def _looked_at(run: Run, rows: list[list[Sample]]) -> HeldOut:
    length = run.parts.config.data.sequence_length
    packed = tuple(_row(samples, index, length) for index, samples in enumerate(rows))
    return HeldOut(packed, run.parts.source_names, "", 0)


def convert(config: str, overrides: list[str], export: str, max_bytes: int | None = None) -> None:
    """Read the model into the ranks and write it out again, in files of at most `max_bytes`."""
    _limit_shards(max_bytes)
    _export(_build(config, overrides), Path(export))


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


def _limit_shards(max_bytes: int | None) -> None:
    if max_bytes is not None:
        saver.shard_plan = partial(saver.shard_plan, most_bytes=max_bytes)


def _build(config: str, overrides: Sequence[str], began_with: str | None = None) -> Run:
    settings = load_config(config, overrides)
    shape = ModelShape.from_folder(settings.model.path)
    return build_run(settings, check_config(settings, shape, None, None), model=began_with)


def _steps(run: Run, batches: Iterator[GlobalBatch], steps: int) -> list[dict[str, Any]]:
    reports: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        report = train_step(run.parts, next(batches), step, Guard()).report
        reports.append(
            {
                "loss": report.loss,
                "grad_norm": report.grad_norm,
                "by_source": report.loss_by_source,
                "targets": report.targets,
                "seconds": report.step_seconds,
            }
        )
    return reports


def _row(samples: Sequence[Sample], index: int, length: int) -> Any:
    made = [
        TokenizedSample(
            source=str(sample["source"]),
            id=str(i),
            tokens=np.array(sample["tokens"], np.int32),
            trained=np.array(sample["trained"], np.bool_),
            kinds=np.array(sample.get("kinds", [0] * len(sample["tokens"])), np.uint8),
        )
        for i, sample in enumerate(samples)
    ]
    return pack_row(made, [s["source"] for s in samples], index=index, length=length, pad_id=0)


def _export(run: Run, folder: Path) -> None:
    """The Hugging Face folder of a checkpoint of the run as it stands."""
    save(run, saver_of(run), run.done, run.stream.state(), run.guard, ends=True)
    if run.parts.grid.is_main:
        store.step_folder(run.checkpoints, run.done).rename(folder)
        shutil.rmtree(run.checkpoints)  # the next run of this config begins afresh
    dist.barrier()


def verify_passes(job: str, who: Who, fault: str | None) -> list[tuple[str, Answer]]:
    """What a rank of `agenttune verify` tells, in order; with a fault of `verify_faults.py` in its code."""
    if fault:
        plant(fault)
    told: list[tuple[str, Answer]] = []
    run_rank(Job.from_json(job), who, lambda what, answer: told.append((what, answer)))
    return told
