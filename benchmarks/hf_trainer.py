"""Steps of a small Llama against transformers' Trainer: the same weights, packed rows and targets on both sides.

`python benchmarks/hf_trainer.py [FILE …] [--pairs 7]` holds both in processes of their own, takes a step of each in
turn, and prints medians, the ratios of the pairs and the most memory that each took. Theirs is the best that Trainer
does with packed rows on a CPU: no padding, positions that restart with each sample, from which transformers makes the
block-diagonal mask, fused AdamW. Both losses of every step are compared: they agree only where both have the same rows,
the same mask of targets, and samples that do not see each other. `--ranks 2` gives ours two data ranks and theirs two
threads; `--record` writes it all to benchmarks/results/hf_trainer.json.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1])]

from benchmarks.machine import machine  # noqa: E402
from benchmarks.small_llama import DEMO, demo_files, small_llama, write_config  # noqa: E402

RESULTS = Path(__file__).with_name("results") / "hf_trainer.json"
LR = 1e-4


def our_side(config_file: Path) -> Iterator[tuple[float, float]]:
    """Seconds and loss of a step each time it is asked for; one rank of them."""
    from configs.check import check_config
    from configs.load import load_config
    from configs.shapes import ModelShape
    from trainer.build import build_run
    from trainer.data.micro_batch import global_batches
    from trainer.guard import Guard
    from trainer.step import train_step

    config = load_config(str(config_file))
    shape = ModelShape.from_folder(config.model.path)
    run = build_run(config, check_config(config, shape, None, int(os.environ["WORLD_SIZE"])))
    batches = global_batches(run.stream, config.batch.rows)
    step = 0
    while True:
        step += 1
        batch = next(batches)
        yield 0.0, 0.0  # ready
        begun = time.perf_counter()
        report = train_step(run.parts, batch, step, Guard()).report
        yield time.perf_counter() - begun, report.loss


def rows_of(config_file: Path, count: int) -> list[dict[str, list[int]]]:
    """The first rows of the stream as transformers takes them: labels not shifted."""
    from configs.load import load_config
    from trainer.data.open import open_stream

    stream = open_stream(load_config(str(config_file)))
    taken = [next(stream) for _ in range(count)]
    return [
        {"input_ids": r.tokens.tolist(), "labels": r.labels.tolist(), "position_ids": r.positions.tolist()}
        for r in taken
    ]


def their_side(config_file: Path, steps: int, turn: Callable[[float, float], None]) -> None:
    """`turn` is called before each step, and after it with its seconds and loss."""
    import torch
    import transformers
    from transformers import LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments, default_data_collator

    from configs.load import load_config

    transformers.logging.set_verbosity_error()
    config = load_config(str(config_file))
    rows = rows_of(config_file, steps * config.batch.rows)
    model = LlamaForCausalLM.from_pretrained(config.model.path, dtype=torch.float32)
    arguments = TrainingArguments(
        output_dir=str(config_file.parent / "theirs"),
        use_cpu=True,
        per_device_train_batch_size=config.batch.micro_rows,
        gradient_accumulation_steps=config.batch.rows // config.batch.micro_rows,
        max_steps=steps,
        learning_rate=config.optimizer.lr,
        lr_scheduler_type="constant",
        optim="adamw_torch_fused",
        adam_beta2=config.optimizer.betas[1],
        adam_epsilon=config.optimizer.eps,
        max_grad_norm=config.optimizer.clip,
        weight_decay=config.optimizer.weight_decay,
        logging_steps=1,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        seed=1,
        remove_unused_columns=False,
    )

    class Turns(TrainerCallback):
        began = 0.0
        seconds = 0.0

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            turn(0.0, 0.0)
            self.began = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.seconds = time.perf_counter() - self.began

        def on_log(self, _a: Any, _s: Any, _c: Any, logs: dict[str, float] | None = None, **__: Any) -> None:
            if logs and "loss" in logs:
                turn(self.seconds, float(logs["loss"]))

    class InOrder(Trainer):
        def _get_train_sampler(self, *_: Any, **__: Any) -> torch.utils.data.Sampler[int]:
            return torch.utils.data.SequentialSampler(rows)

    trainer = InOrder(
        model, arguments, train_dataset=rows, data_collator=default_data_collator, callbacks=[Turns()]
    )
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.train()


def side_main(side: str, config_file: Path, steps: int, told: int) -> None:
    """Say READY, take a step for each line heard, answer with JSON; at the end the most memory."""
    answers = os.fdopen(told, "w", buffering=1)

    def say(seconds: float, loss: float) -> None:
        if seconds:
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            print(json.dumps([seconds, loss, memory]), file=answers)
        else:
            print("READY", file=answers)
            if not sys.stdin.readline():
                os._exit(0)

    if side == "theirs":
        import torch

        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        their_side(config_file, steps, say)
    else:
        for taken in our_side(config_file):
            say(*taken)


class Side:
    """Processes that take a step when told to."""

    def __init__(self, side: str, processes: int, threads: int, config: Path, steps: int) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.processes: list[subprocess.Popen[str]] = []
        self.answers: list[Any] = []
        self.memory = 0
        for rank in range(processes):
            theirs, told = os.pipe()
            environment = {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(processes),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "OMP_NUM_THREADS": str(threads),
            }
            if side == "theirs":  # Trainer would join a group of one
                environment = {"OMP_NUM_THREADS": str(threads)}
            self.processes.append(
                subprocess.Popen(
                    [sys.executable, __file__, "--side", side, str(config), str(steps), str(told)],
                    stdin=subprocess.PIPE,
                    text=True,
                    pass_fds=[told],
                    env=os.environ | environment,
                )
            )
            os.close(told)
            self.answers.append(os.fdopen(theirs))

    def ready(self) -> None:
        for answers in self.answers:
            if answers.readline() != "READY\n":
                raise RuntimeError("a side of the benchmark ended; its message is above")

    def step(self) -> tuple[float, float]:
        """Seconds of the slowest process, and the loss."""
        for process in self.processes:
            assert process.stdin
            print(file=process.stdin, flush=True)
        told = [json.loads(answers.readline()) for answers in self.answers]
        self.memory = sum(memory for _, _, memory in told)
        self.ready()
        return max(seconds for seconds, _, _ in told), told[0][1]

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


def compare(config: Path, ranks: int, pairs: int) -> dict[str, Any]:
    """Pairs of steps after one that warms up."""
    ours = Side("ours", ranks, 1, config, pairs + 2)
    theirs = Side("theirs", 1, ranks, config, pairs + 3)
    try:
        for side in (ours, theirs):
            side.ready()
        taken = [(ours.step(), theirs.step()) for _ in range(pairs + 1)]
        memory = [ours.memory, theirs.memory]
    finally:
        for side in (ours, theirs):
            side.close()
    ratios = sorted(mine[0] / other[0] for mine, other in taken[1:])
    return {
        "processes_ours": ranks,
        "threads_theirs": ranks,
        "pairs": pairs,
        "our_seconds": round(statistics.median(mine[0] for mine, _ in taken[1:]), 3),
        "their_seconds": round(statistics.median(other[0] for _, other in taken[1:]), 3),
        "ratio_median": round(statistics.median(ratios), 3),
        "ratio_min": round(ratios[0], 3),
        "ratio_max": round(ratios[-1], 3),
        "our_peak_bytes": memory[0],
        "their_peak_bytes": memory[1],
        "memory_ratio": round(memory[0] / memory[1], 3),
        "largest_difference_of_loss": max(abs(mine[1] - other[1]) for mine, other in taken),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, help="conversations; the demo's by default")
    parser.add_argument("--tokenizer", type=Path, default=DEMO / "tokenizer")
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--length", type=int, default=4096)
    parser.add_argument("--ranks", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--side", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        side, config, steps, told = options.side
        return side_main(side, Path(config), int(steps), int(told))
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shape = small_llama(folder / "model", options.tokenizer)
        config = write_config(folder, options.files or demo_files(), options.length, rows=4, lr=LR)
        for ranks in options.ranks:
            found.append(compare(config, ranks, options.pairs))
            print(json.dumps(found[-1], indent=2))
            shutil.rmtree(folder / "run", ignore_errors=True)
    result = {
        "machine": machine("transformers", "accelerate"),
        "parameters": shape.parameters(),
        "vocabulary": shape.vocab,
        "row_length": options.length,
        "rows": 4,
        "trials": found,
    }
    if options.record:
        RESULTS.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
