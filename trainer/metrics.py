"""What one optimizer step reports, and where it goes: metrics.jsonl, wandb, the progress bar."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from configs.errors import ConfigError
from configs.gpus import gpu_named
from configs.schema import WandbConfig
from configs.shapes import ModelShape
from trainer.guard import show_rows

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class StepReport:
    """One line of metrics.jsonl. Losses are nats per target of the global batch, times are seconds."""

    step: int
    loss: float
    loss_by_source: dict[str, float]
    loss_by_kind: dict[str, float]
    """By `SpanKind` of the target, named in lower case; kinds without targets in the step are absent."""
    lr: float
    grad_norm: float
    """Global norm before clipping."""
    targets: int
    tokens: int
    """Tokens that are no padding."""
    target_share: float
    """Targets over tokens."""
    rows: int
    fill: float
    step_seconds: float
    tokens_per_second: float
    data_wait_seconds: float
    """Part of step_seconds in which the batch was not there yet."""
    data_hash: str
    """The rolling hash of all samples up to this step: equal hashes, equal data in equal order."""
    skipped: int
    """Steps left out up to now, of the whole run: their loss or gradient was not finite, or a spike."""
    memory: int
    """Bytes. Of a GPU what torch's tensors took there at their fullest since the start, on a CPU the process's resident
    set after the step; in metrics.jsonl those of rank 0, whose stage and part of the optimizer they are."""
    mfu: float | None
    """Model FLOPs over the devices' bfloat16 peak; None where the peak is unknown, as on a CPU."""


def step_flops(shape: ModelShape, sample_lengths: Sequence[int]) -> float:
    """Model FLOPs of a step, forward and backward, no recomputation counted.

    6 per weight and token (the embedding's rows are looked up, not multiplied) and 6 * heads * head_dim per
    layer and pair of tokens that causal attention inside samples joins, twice l^2 / 2 of them.
    """
    tokens = sum(sample_lengths)
    weights = shape.parameters() - (0 if shape.tied else shape.vocab * shape.hidden)
    pairs = float(sum(length * length for length in sample_lengths))
    return 6.0 * weights * tokens + 6.0 * shape.layers * shape.heads * shape.head_dim * pairs


def peak_flops(device: torch.device) -> float | None:
    """The device's dense bfloat16 peak per second; None where its type is not known."""
    if device.type != "cuda":
        return None
    import torch  # here, since a plan, which asks for `step_flops`, does without

    gpu = gpu_named(torch.cuda.get_device_name(device))
    return None if gpu is None else gpu.flops


class _Bar(tqdm):  # pyright: ignore[reportMissingTypeArgument]
    """tqdm's bar on a terminal; in a log file a line of its own now and then."""

    def __init__(self, *, initial: int, **options: Any) -> None:
        self._printed = initial
        super().__init__(initial=initial, **options)

    def clear(self, *args: Any, **options: Any) -> None:
        """A log file has no line to be cleared for another."""
        if self.fp.isatty():
            super().clear(*args, **options)

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        if self.fp.isatty():
            super().display(msg, pos)
        elif self.n > self._printed:
            self._printed = self.n
            values = self.format_dict
            left = self.format_interval((self.total - self.n) * values["elapsed"] / (self.n - self.initial))
            self.fp.write(f"step {self.n}/{self.total}, {values['postfix'] or ''}, {left} left\n")
            self.fp.flush()


class Tracker:
    """Rank 0's record of a run. wandb failing or missing never stops training; metrics.jsonl is complete."""

    def __init__(
        self,
        folder: Path,
        config: WandbConfig,
        settings: Mapping[str, Any],
        *,
        done: int,
        steps: int,
        wandb_id: str | None,
    ) -> None:
        """`done` steps are behind a resumed run: later lines of an earlier attempt are dropped."""
        self._file = folder / "metrics.jsonl"
        self.logged = keep_lines(self._file, done)
        """The last step that the log had before."""
        self._stream = self._file.open("a", encoding="utf-8")
        self._wandb = _start_wandb(folder, config, settings, wandb_id)
        self.wandb_id: str | None = wandb_id if self._wandb is None else self._wandb.id
        """Kept where wandb does not start this time, so that a later start goes on with it."""
        if self._wandb is not None:
            with suppress(OSError):
                _id_file(folder).write_text(self._wandb.id, encoding="utf-8")
        self._bar = _Bar(
            total=steps,
            initial=done,
            desc="step",
            dynamic_ncols=True,
            mininterval=0.2 if sys.stderr.isatty() else 10.0,
            bar_format="{desc} {n_fmt}/{total_fmt} {bar:20} {elapsed}<{remaining}{postfix}",
        )

    def record(self, report: StepReport, fault: str = "") -> None:
        """Log a step; `fault` is why it was left out."""
        line = json.dumps(finite(asdict(report)), ensure_ascii=False, allow_nan=False) + "\n"
        with self._named():
            self._stream.write(line)
            self._stream.flush()
        self._bar.set_postfix_str(
            f"loss {report.loss:.4f}, lr {report.lr:.2e}, {report.tokens_per_second:,.0f} tokens/s",
            refresh=False,
        )
        self._bar.update()
        if fault:
            self.say(
                f"step {report.step} is left out: {fault}; weights, moments and schedule stay as they were "
                f"({report.skipped} left out in all). Its rows: "
                + show_rows(self._file.parent, report.step, report.step, report.rows)
            )
        if self._wandb is not None:
            values = {
                key: value
                for key, value in asdict(report).items()
                if key not in ("step", "loss_by_source", "loss_by_kind", "data_hash")
            }
            values |= {f"loss/{name}": loss for name, loss in report.loss_by_source.items()}
            values |= {f"loss_by_kind/{name}": loss for name, loss in report.loss_by_kind.items()}
            self.tell_wandb(values, report.step)

    def tell_wandb(self, values: Mapping[str, Any], step: int) -> None:
        if self._wandb is not None:
            try:
                self._wandb.log(values, step=step)
            except Exception as error:
                self._give_up_wandb(error)

    def say(self, text: str) -> None:
        """A line above the progress bar."""
        self._bar.write(text, file=sys.stderr)

    def close(self) -> None:
        self._bar.close()
        if self._wandb is not None:
            try:
                self._wandb.finish()
            except Exception as error:
                self._give_up_wandb(error)
        with self._named():
            self._stream.close()

    @contextmanager
    def _named(self) -> Iterator[None]:
        """An OSError of a full disk does not know the file."""
        try:
            yield
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._file)) from error

    def _give_up_wandb(self, error: Exception) -> None:
        self.say(f"wandb stopped ({error}); training goes on, {self._file} is complete")
        self._wandb = None


def finite(value: Any) -> Any:
    """JSON knows no NaN and no infinity: null stands for them."""
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def keep_lines(file: Path, done: int) -> int:
    """Cut off what comes after a step; returns the last that is left, 0 where none is. Nothing is written anew, so that
    no kill leaves less than was there."""
    if not file.is_file():
        return 0
    kept = list(takewhile(lambda line: line[0]["step"] <= done, _lines(file)))
    os.truncate(file, sum(size for _, size in kept))
    return kept[-1][0]["step"] if kept else 0


def _lines(file: Path) -> Iterator[tuple[dict[str, Any], int]]:
    """The lines that were written to their end, and the bytes of each; up to one that a power cut has spoilt. Other
    line ends than ours may stand in texts."""
    for line in file.read_bytes().split(b"\n")[:-1]:
        try:
            yield json.loads(line), len(line) + 1
        except ValueError:
            return


def check_log(folder: Path, step: int, data_hash: str) -> None:
    """Raises ConfigError where metrics.jsonl has another data hash for `step` than the checkpoint of that step: then
    one of the two is not of this run."""
    file = folder / "metrics.jsonl"
    if not file.is_file():
        return
    for values, _ in _lines(file):
        if values.get("step") == step and values.get("data_hash", data_hash) != data_hash:
            raise ConfigError(
                f"{file}: step {step} has data hash {values['data_hash']}, but its checkpoint has {data_hash}: they "
                "are of different runs; move the log away, or name the right checkpoint in checkpoint.resume"
            )


def last_wandb_id(folder: Path) -> str | None:
    """Of the wandb run that last began in a run's folder. A checkpoint knows that of the time it was written."""
    file = _id_file(folder)
    return file.read_text(encoding="utf-8").strip() or None if file.is_file() else None


def forget_wandb_id(folder: Path) -> None:
    """Where another course begins: a later start must not go on with the run of the one before."""
    _id_file(folder).unlink(missing_ok=True)


def _id_file(folder: Path) -> Path:
    return folder / "wandb" / "current-id.txt"


def _start_wandb(folder: Path, config: WandbConfig, settings: Mapping[str, Any], wandb_id: str | None) -> Any:
    if config.mode == "disabled":
        return None
    try:
        import wandb

        mode = config.mode
        if mode == "online" and not (os.environ.get("WANDB_API_KEY") or wandb.login(prompt=False)):
            mode = "offline"
            print(
                f"wandb: no API key, so this run is kept offline; `wandb sync {folder}/wandb/offline-run-*` sends it",
                file=sys.stderr,
            )
        return wandb.init(
            project=config.project,
            name=config.name,
            id=wandb_id,
            resume="allow" if wandb_id else None,
            dir=folder,
            config=dict(settings),
            mode=mode,
            settings=wandb.Settings(silent=True, console="off"),
        )
    except Exception as error:
        print(f"wandb could not start ({error}); training goes on without it", file=sys.stderr)
        return None
