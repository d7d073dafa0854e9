"""From a config to a run: the one place where all parts meet."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from configs.changes import changes
from configs.errors import ConfigError
from configs.layout import Layout
from configs.load import save_config
from configs.schema import Config
from configs.shapes import ModelShape
from tokenization.builder import SampleBuilder
from trainer.checkpoint.choice import check_some_left, own_name
from trainer.checkpoint.course import take_up
from trainer.checkpoint.hf_import import fresh_ids, load_weights
from trainer.checkpoint.progress import FOLDER, Progress, model_digest, nothing_to_do, read_progress
from trainer.checkpoint.resume import agree_on_checkpoint, agree_on_weights
from trainer.checkpoint.training_state import read_training_state
from trainer.data.bad_rows import Quarantine
from trainer.data.epochs import rows_of_epochs
from trainer.data.groups import groups_of
from trainer.data.held_out import HeldOut, open_held_out
from trainer.data.open import Data, open_builder, open_data
from trainer.evaluations import EvaluationLog
from trainer.forecast import forecast, write_forecast
from trainer.guard import Guard
from trainer.layer_norms import LayerNorms
from trainer.loop import Run
from trainer.loss import TargetLoss
from trainer.model.layers import Parts
from trainer.model.names import Table, stage_table
from trainer.model.stack import head_weight, llama_layers
from trainer.optimizer import make_adamw
from trainer.output_lock import lock_output
from trainer.parallel.engine import Engine, build_engine, build_stages
from trainer.parallel.exchange import exchange
from trainer.parallel.grid import Grid, start_grid
from trainer.random_states import restore_random_states
from trainer.stages import Ranges, divide, layer_costs
from trainer.start_up import phase_done
from trainer.step import StepParts
from trainer.step_log import check_log
from trainer.tracker import Tracker, forget_wandb_id, last_wandb_id
from trainer.watchdog import beat

_SIGN_OF_LIFE = 60
"""Seconds after which waiting ranks are told to wait on: a collective that takes half an hour is given up."""

_GROUPS_S = 1860
"""At the least, seconds that a collective may take."""


def count_steps(config: Config, data: Data, grid: Grid) -> int:
    """Optimizer steps of the run; a collective.

    `train.epochs` costs rank 0 a pass over the data, whose samples are kept, and nothing when it was counted before.
    """
    if config.train.steps is not None:
        return config.train.steps
    assert config.train.epochs is not None  # check_config saw to one of the two

    def shared(rows: int) -> int:
        told = torch.tensor(rows, device=grid.device)
        dist.broadcast(told, 0)
        return int(told)

    if grid.is_main:
        spoken = time.monotonic()

        def still_counting() -> None:
            nonlocal spoken
            beat()
            if time.monotonic() - spoken > _SIGN_OF_LIFE:
                shared(-1)
                spoken = time.monotonic()

        rows = shared(rows_of_epochs(config, data, config.train.epochs, still_counting))
    else:
        while (rows := shared(0)) < 0:
            beat()
    return -(-rows // config.batch.rows)  # the stream goes on where the last batch asks for more


def grown_shape(config: Config, builder: SampleBuilder) -> ModelShape:
    """The model's shape with a row of embedding and head for each control token that the template adds."""
    shape = ModelShape.from_folder(config.model.path)
    return replace(shape, vocab=max(shape.vocab, builder.encoder.vocab_size))


def build_run(config: Config, layout: Layout, data: Data | None = None, model: str | None = None) -> Run:
    """Join the process groups and put the run together, resumed where its checkpoints say so.

    data: opened before, where workers were forked from this process while it was small; else nobody works ahead
    model: `model_digest` of the model's folder when its config and tokenizer were read, which may be minutes ago
    """
    model = model or model_digest(Path(config.model.path))
    torch.manual_seed(config.run.seed)
    # The watchdog is to come first: it tells where all ranks stand.
    grid = start_grid(layout, timedelta(seconds=max(_GROUPS_S, config.run.hang_seconds + _SIGN_OF_LIFE)))
    _claim_output(config, grid)
    phase_done("groups")
    data = data or open_data(config, open_builder(config), first=grid.is_main, workers=0)
    builder = data.builder
    shape = grown_shape(config, builder)
    stream = data.stream(config)
    folder = agree_on_checkpoint(config, grid)
    progress = read_progress(folder, config, model) if folder else None
    if not progress:
        agree_on_weights(Path(config.model.path), grid)
    if folder and progress:
        stream.restore(progress.cursor, folder)
        if own_name(config, folder):  # else the log is that of a run before, and is put aside
            check_log(Path(config.run.output_dir), progress.step, progress.cursor["hash"])
    steps = count_steps(config, data, grid)
    if folder and progress:
        check_some_left(config, folder, progress.step, steps)
    phase_done("stream and checkpoint")
    stages = divide(layer_costs(shape, config.data.sequence_length), layout)
    table = stage_table(shape, stages[grid.stage])
    engine, loss = build_model(config, shape, grid, stages, table, fresh_ids(builder), load=progress is None)
    phase_done("model and weights")
    guard = Guard()
    if folder and progress:
        guard = Guard.from_json(progress.guard)
        read_training_state(folder, engine, table, grid, progress.step - guard.skipped)
        restore_random_states(progress.random, grid.rank)
    names = tuple(source.name for source in config.data.sources)
    layers = LayerNorms(engine, grid, shape, stages) if config.train.layer_norms_every else None
    parts = StepParts(config, shape, grid, engine, loss, names, steps, layers)
    tracker = _tracker(config, folder, progress, steps, layout) if grid.is_main else None
    quarantine = Quarantine(Path(config.run.output_dir), stream.state().bad_rows()) if grid.is_main else None
    plan = forecast(config, shape, grid)
    if tracker:
        tracker.attach({"plan": write_forecast(plan, Path(config.run.output_dir))})
    done, began = 0, None
    if folder and progress:
        done, began = progress.step, progress.began if own_name(config, folder) else str(folder.absolute())
    phase_done("state and logs")
    held_out = _held_out(config, data, grid) if config.evaluation.every else None
    evaluations = EvaluationLog(Path(config.run.output_dir), done) if grid.is_main else None
    return Run(
        parts,
        builder,
        stream,
        stages,
        done,
        began,
        model,
        guard,
        tracker,
        quarantine,
        plan,
        held_out,
        evaluations,
    )


def build_model(
    config: Config,
    shape: ModelShape,
    grid: Grid,
    stages: Sequence[Ranges],
    table: Table,
    fresh: range,
    *,
    load: bool,
) -> tuple[Engine, TargetLoss]:
    """This rank's layers, the loss, and the engine around them.

    load: the weights are those of the model's folder, which know nothing of the ids in `fresh`; else they are anything
    """
    dtype = getattr(torch, config.model.dtype)
    model = Parts(shape, grid, dtype, config.parallel.recompute)
    loss = TargetLoss(
        shape.vocab, shape.hidden, groups_of(len(config.data.sources)), grid.tensor_group, grid.device
    )
    module = build_stages(llama_layers(model), stages, grid, loss, model.passing)
    head = head_weight(module)
    if head is not None:
        loss.bind_head(head)
    parameters = dict(module.named_parameters())
    if load:
        folder, tensor = Path(config.model.path), grid.layout.tensor
        load_weights(folder, shape, table, parameters, grid.tensor_rank, tensor, fresh)
    engine = build_engine(
        module,
        make_adamw(module.parameters(), config.optimizer),
        micro_batches=grid.layout.micro_batches(config.batch),
        micro_rows=config.batch.micro_rows,
        data_ranks=grid.layout.data,
        clip=config.optimizer.clip,
        dtype=dtype,
    )
    return engine, loss


def _claim_output(config: Config, grid: Grid) -> None:
    """Rank 0 holds the run's folder until it ends; a collective. Raises ConfigError where another job has it."""
    told = ""
    try:
        if grid.is_main:
            lock_output(Path(config.run.output_dir))
    except ConfigError as error:
        told = str(error)
    if said := exchange(told, grid)[0]:
        raise ConfigError(said)


def _held_out(config: Config, data: Data, grid: Grid) -> HeldOut:
    """What evaluations look at; a collective. Raises RuntimeError where ranks have different data."""
    held_out = open_held_out(config, data)
    hashes = exchange(held_out.hash, grid)
    if len({*hashes}) > 1:
        rank = next(rank for rank, hash in enumerate(hashes) if hash != hashes[0])
        raise RuntimeError(
            f"ranks hold out different data, their hashes are {hashes[0]} on rank 0 and {hashes[rank]} on rank {rank}: "
            "data files, tokenizer or code differ between machines; make them the same and resume"
        )
    return held_out


def _tracker(
    config: Config, resumed: Path | None, progress: Progress | None, steps: int, layout: Layout
) -> Tracker:
    folder = Path(config.run.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    # Before the log is cut: it must not end before the step that a start after a kill goes on from.
    taken = take_up(config, resumed)
    if taken.told:
        print(taken.told, file=sys.stderr)
    if not taken.same:
        forget_wandb_id(folder)
    save_config(config, folder / "config.yaml")
    done = progress.step if progress else 0
    if said := nothing_to_do(done, steps):
        print(said, file=sys.stderr)
    wandb_id = (last_wandb_id(folder) or (progress and progress.wandb_id)) if taken.same else None
    tracker = Tracker(folder, config.wandb, asdict(config), done=done, steps=steps, wandb_id=wandb_id)
    if taken.own and tracker.logged < done:
        tracker.say(f"{folder}/metrics.jsonl lacks steps {tracker.logged + 1} to {done}")
    if resumed and progress and done < steps:
        for said in _resumed(config, resumed, progress, steps, layout):
            tracker.say(said)
    return tracker


def _resumed(config: Config, folder: Path, progress: Progress, steps: int, layout: Layout) -> Iterator[str]:
    """From where, and what is no more as it was there."""
    other = (
        f", which was written as {progress.layout}: this run is {layout}" if progress.layout != layout else ""
    )
    yield f"resumed after step {progress.step} from {folder}{other}"
    if progress.steps != steps:
        yield f"planned were {progress.steps} steps, now they are {steps}: the learning rate follows the new plan"
    if changed := changes(folder / FOLDER / "config.yaml", config):
        yield f"not as in {folder.name}: {', '.join(changed)}"
