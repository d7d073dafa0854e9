"""`agenttune verify`: parallel equals serial, on the user's own rows, on a CPU. What it prints; no torch here."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
from tqdm import tqdm

from configs.errors import ConfigError
from configs.layout import Layout
from configs.load import load_config, save_config
from configs.schema import Config, TrainConfig
from configs.shapes import ModelShape
from launch.arguments import Parser
from launch.preflight import check_settings
from launch.preview import json_lines
from launch.verify_processes import Processes
from trainer.verify import limits
from trainer.verify.answers import Answers
from trainer.verify.checks import Finding, checks, not_made, ready
from trainer.verify.fold import batch_rows, fold
from trainer.verify.job import STEPS, Job, lines_hash, verify_config
from trainer.verify.small_shape import small_shape

_RANKS = (8, 16)
"""Processes of the layout by default: so many whatever the cores, since the model is small, and so many at the most."""
_RANK_BYTES = 400e6
"""Memory of a process of it beside its part of the model."""
_COPIES = 8
"""Of the parameters in float32: weights, ZeRO's, gradients, moments, those of a few engines."""
_DESCRIPTION = (
    "Compares the requested layout with one process and with transformers, on the first rows that this config trains "
    "on, with a small random model of the architecture of model.path: rows, loss, gradients, losses after updates, "
    "samples that must not see each other, other micro-batches, recompute. It runs on the CPU in about a minute; the "
    "layout is folded to what this machine can run. Of model.path config.json and the tokenizer are needed, no "
    "weights. Nothing is written but a temporary folder. The exit code is 1 where a check fails."
)
_EXAMPLE = "example: agenttune verify configs/demo.yaml parallel.data=2 parallel.sequence=true"


def main(argv: list[str]) -> int:
    parser = Parser("agenttune verify", description=_DESCRIPTION, epilog=_EXAMPLE)
    add = parser.add_argument
    add("config", metavar="CONFIG", help="YAML file, see configs/")
    add("overrides", metavar="KEY=VALUE", nargs="*", default=[], help="settings that replace the file's")
    add(
        "--ranks",
        type=int,
        metavar="N",
        help="processes of the layout at the most (default 8 to 16, as memory allows)",
    )
    args: argparse.Namespace = parser.parse_intermixed_args(argv)
    if args.ranks is not None and args.ranks < 1:
        raise ConfigError(
            f"--ranks={args.ranks}: must be at least 1; leave it out for as many as this machine can run"
        )
    begun = time.monotonic()
    signal.signal(signal.SIGTERM, _stop)
    config = load_config(args.config, args.overrides)
    with tempfile.TemporaryDirectory(prefix="agenttune-verify-") as folder, Processes(folder) as processes:
        job, answers, head = prepare(config, args.ranks, Path(folder), args.config)
        print(head, flush=True)
        failed: list[str] = []
        for finding in _findings(processes, job, answers):
            # tqdm's own, which takes the bar away from the terminal for as long as it writes.
            tqdm.write(
                f"{'ok    ' if finding.holds else 'FAILED'}  {finding.name:13}  {finding.told}",
                file=sys.stdout,
            )
            sys.stdout.flush()
            failed += [] if finding.holds else [finding.name]
    seconds = f"{time.monotonic() - begun:.0f} s"
    if failed:
        print(f"{len(failed)} of {len(checks(job))} checks failed: {', '.join(failed)} ({seconds})")
        return 1
    alone = (
        "; a layout of one process, so nothing parallel was compared" if job.layout.world_size == 1 else ""
    )
    print(f"all {len(checks(job))} checks hold ({seconds}){alone}")
    return 0


def prepare(config: Config, most: int | None, folder: Path, name: str) -> tuple[Job, Answers, str]:
    """The job in its folder, the rows that `preview` shows, and what is said before. Raises ConfigError, DataError."""
    # How long to train is of no concern here.
    checked, builder = check_settings(replace(config, train=TrainConfig(steps=1)), None)
    automatic = isinstance(config.parallel.data, str)
    asked = replace(checked, data=2) if automatic else checked
    whole = ModelShape.from_folder(config.model.path)
    whole = replace(whole, vocab=max(whole.vocab, builder.encoder.vocab_size))
    length = config.data.sequence_length
    layout = fold(asked, most or _affordable(whole, asked), length)
    rows = batch_rows(layout, length, whole.vocab)
    micro_rows = min(config.batch.micro_rows, 2)
    job = Job(str(folder), layout, config.parallel.recompute, rows, micro_rows, 3 - micro_rows)
    (folder / "cache").mkdir()
    job.model.mkdir()
    small = small_shape(whole, asked, layout)
    (job.model / "config.json").write_text(json.dumps(small.hf_config(bos=None, eos=None, dtype="float32")))
    own = verify_config(config, folder, rows, micro_rows)
    save_config(own, job.config_file)
    lines = list(json_lines(own, None, (0, STEPS * rows)))
    names = [json.loads(line)["samples"] for line in lines]
    return job, Answers(job, lines_hash(lines), names), _head(name, config, asked, automatic, job, small)


def _head(name: str, config: Config, asked: Layout, automatic: bool, job: Job, small: ModelShape) -> str:
    words = [f"sequence {str(asked.sequence).lower()}", f"recompute {config.parallel.recompute}"]
    requested = f"{asked}, {', '.join(words)}, micro_rows {config.batch.micro_rows}"
    requested += " (parallel.data=auto is taken as 2)" if automatic else ""
    folded = f"folded to {job.layout}" if job.layout != asked else "not folded"
    folded += f" = {job.layout.world_size} process{'es' if job.layout.world_size > 1 else ''} on the CPU"
    folded += f", micro_rows {job.micro_rows}" if job.micro_rows != config.batch.micro_rows else ""
    tied = "a tied head" if small.tied else "a head of its own"
    structure = (
        "; model.dtype=bfloat16 would hide faults in its rounding, so its arithmetic is checked for its structure alone"
        if config.model.dtype == "bfloat16"
        else ""
    )
    return "\n".join(
        (
            f"verify {name}: parallel equals serial",
            f"  asked for  {requested}",
            f"  runs as    {folded}",
            f"  model      as {config.model.path}, made small, random weights: {small.layers} layers, "
            f"hidden {small.hidden}, {small.heads} heads of {small.head_dim} on {small.kv_heads} key-value heads, "
            f"vocabulary {small.vocab}, {tied}, rope {small.rope['rope_type']}",
            f"  rows       {STEPS} batches of {job.rows} rows of {config.data.sequence_length} tokens, the first of "
            "this config's stream",
            "  against    one process of the same code, and transformers, which takes sample by sample",
            f"  precision  float32{structure}",
            f"  limits     relative: {limits.LOSS:.0e} of a loss, {limits.NORM:.0e} of the gradient norm, "
            f"{limits.GRADIENT:.0e} of a parameter's gradient, {limits.HIDDEN:.0e} of hidden states; float32 "
            "keeps 6e-8 of a number, and sums in another order, of terms of both signs, lose more",
        )
    )


def _affordable(shape: ModelShape, asked: Layout) -> int:
    """Processes that this machine has memory for, at least 2."""
    cores = len(psutil.Process().cpu_affinity() or [0]) if hasattr(psutil.Process, "cpu_affinity") else 1
    wanted = max(_RANKS[0], min(_RANKS[1], cores))
    parameters = small_shape(shape, asked, Layout(1, 1, 1)).parameters()
    return max(
        2, min(wanted, int(psutil.virtual_memory().available / (_RANK_BYTES + _COPIES * 4 * parameters)))
    )


def _findings(processes: Processes, job: Job, answers: Answers) -> Iterator[Finding]:
    """Of each check as it ends. Raises RuntimeError for a process that fails."""
    left, sound = checks(job), True
    processes.start(job)
    needed = {need for check in left for need in check.needs}
    total = sum(job.processes(who) for who, _ in needed)
    with tqdm(total=total, unit="pass", leave=False, disable=None) as progress:
        for message in processes.messages():
            who, what = message["who"], message["what"]
            answers.add(
                who, what, message["rank"], json.loads(Path(message["file"]).read_text(encoding="utf-8"))
            )
            progress.set_description(f"{who} {what}")
            progress.update()
            for finding in ready(left, answers):
                sound = sound and (finding.holds or finding.name != "rows")
                yield finding
            if not left:
                return
    if sound:
        missing = {
            f"{who} {what}" for check in left for who, what in check.needs if not answers.whole(who, what)
        }
        raise RuntimeError(f"the processes ended without having told of: {', '.join(sorted(missing))}")
    yield from not_made(left)


def _stop(number: int, frame: object) -> None:
    raise SystemExit(128 + number)
