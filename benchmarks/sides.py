"""The sides that are compared: our step, transformers' Trainer, and a bare loop that torch compiles.

`python benchmarks/sides.py SIDE CONFIG STEPS PIPE`, started by `benchmarks/turns.py`. All train the same model
folder on the same packed rows and targets, on a GPU where torch sees one, else on the CPU in float32.
"""

from __future__ import annotations

import os
import sys
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1])]

import numpy as np  # noqa: E402
import torch  # noqa: E402

from benchmarks.turns import Turn  # noqa: E402
from configs.load import load_config  # noqa: E402
from configs.schema import Config  # noqa: E402

CUDA = torch.cuda.is_available()


def ours(config: Config, steps: int, turn: Turn) -> None:
    from configs.check import check_config
    from configs.shapes import ModelShape
    from trainer.build import build_run
    from trainer.data.micro_batch import global_batches
    from trainer.guard import Guard
    from trainer.step import train_step

    shape = ModelShape.from_folder(config.model.path)
    run = build_run(config, check_config(config, shape, None, int(os.environ["WORLD_SIZE"])))
    batches = global_batches(run.stream, config.batch.rows)
    for step in range(1, steps + 1):
        batch = next(batches)
        turn.wait()
        _settle()
        began = time.perf_counter()
        report = train_step(run.parts, batch, step, Guard()).report
        _settle()  # the update is queued when the step's numbers are known
        seconds = time.perf_counter() - began
        turn.taken(seconds, report.loss, checksum((row.tokens, row.labels) for row in batch.rows))
    turn.wait()


def checksum(rows: Iterable[tuple[Any, Any]]) -> int:
    """Of tokens and labels, integers [s] each."""
    found = 0
    for row in rows:
        for part in row:
            found = zlib.crc32(np.asarray(part, np.int64).tobytes(), found)
    return found


def rows_of(config: Config, count: int) -> list[dict[str, torch.Tensor]]:
    """The first rows of the stream as transformers takes them: labels not shifted."""
    from trainer.data.open import open_stream

    stream = open_stream(config)
    rows = [next(stream) for _ in range(count)]
    parts = {"input_ids": "tokens", "labels": "labels", "position_ids": "positions"}
    return [{key: torch.from_numpy(getattr(r, of)).long() for key, of in parts.items()} for r in rows]


def collated(rows: list[dict[str, torch.Tensor]]) -> dict[str, Any]:
    """One batch of rows; for a kernel of variable lengths also where samples begin, as transformers names it."""
    batch: dict[str, Any] = {key: torch.stack([row[key] for row in rows]) for key in rows[0]}
    if CUDA:
        starts = (batch["position_ids"].flatten() == 0).nonzero().flatten().tolist()
        edges = [*starts, batch["position_ids"].numel()]
        longest = max(b - a for a, b in pairwise(edges))
        cumulative = torch.tensor(edges, dtype=torch.int32)
        batch |= {"cu_seq_lens_q": cumulative, "cu_seq_lens_k": cumulative}
        batch |= {"max_length_q": longest, "max_length_k": longest}
    return batch


def keep_apart(model: Any, rows: list[dict[str, torch.Tensor]]) -> None:
    """Raises ValueError where what the model says of a row's second sample depends on its first.

    That is measured against what another first sample changes of itself: a loss would hardly show it. The first row
    with several samples is taken; where none has, there is nothing to keep apart.
    """
    row = next((row for row in rows if (row["position_ids"] == 0).sum() > 1), None)
    if row is None:
        return
    starts = (row["position_ids"] == 0).nonzero().flatten().tolist()
    second, end = starts[1], (starts[2:] or [len(row["input_ids"])])[0]
    other = dict(row, input_ids=row["input_ids"].clone())
    other["input_ids"][:second] = (other["input_ids"][:second] + 1) % model.config.vocab_size
    device = next(model.parameters()).device
    said = []
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=CUDA):
        for one in (row, other):
            batch = to_device(collated([one]), device)
            batch.pop("labels")
            said.append(model(**batch, use_cache=False).logits[0, :end].float())  # [s of both, vocabulary]
    if CUDA:
        torch.cuda.reset_peak_memory_stats()  # this is no part of a step
    changed = (said[0] - said[1]).abs()
    own, across = float(changed[:second].mean()), float(changed[second:].mean())
    if not across <= 1e-3 * own:  # nor where they are no numbers
        raise ValueError(
            f"samples see each other: one changes its own logits by {own}, its neighbour's by {across}"
        )


def to_device(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    return {
        key: value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value
        for key, value in batch.items()
    }


def register_varlen() -> str:
    """torch's own flash attention of variable lengths, as an attention that transformers can be told to use."""
    from torch.nn.attention.varlen import varlen_attn
    from transformers import AttentionInterface, AttentionMaskInterface

    from trainer.model.attention import varlen_options

    options = varlen_options(False)

    def attention(
        module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any, **told: Any
    ) -> Any:
        q, k, v = (x.transpose(1, 2).flatten(0, 1) for x in (query, key, value))  # [b s, heads, d]
        q, k = q.to(v.dtype), k.to(v.dtype)  # under autocast the rotary embedding leaves them float32
        edges, longest = told["cu_seq_lens_q"], told["max_length_q"]
        mixed: Any = varlen_attn(q, k, v, edges, edges, longest, longest, **options)
        return mixed.unflatten(0, (len(query), -1)), None

    AttentionInterface.register("varlen", attention)
    AttentionMaskInterface.register("varlen", lambda *_, **__: None)
    return "varlen"


def trainer(config: Config, steps: int, turn: Turn, *, liger: bool = False, varlen: bool = False) -> None:
    import transformers
    from transformers import LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

    transformers.logging.set_verbosity_error()
    rows = rows_of(config, steps * config.batch.rows)
    attention = register_varlen() if varlen else "sdpa"
    model = LlamaForCausalLM.from_pretrained(
        config.model.path, dtype=torch.float32, attn_implementation=attention
    )
    arguments = TrainingArguments(
        output_dir=str(Path(config.run.output_dir).parent / "theirs"),
        use_cpu=not CUDA,
        bf16=CUDA,
        use_liger_kernel=liger,
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

    seen: deque[tuple[torch.Tensor, torch.Tensor]] = deque()  # one micro-batch more than was trained on

    def collate(chosen: list[dict[str, torch.Tensor]]) -> dict[str, Any]:
        seen.extend((row["input_ids"], row["labels"]) for row in chosen)
        return collated(chosen)

    class Turns(TrainerCallback):
        began = seconds = 0.0

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            turn.wait()
            _settle()
            self.began = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            _settle()
            self.seconds = time.perf_counter() - self.began

        def on_log(self, *_: Any, logs: dict[str, float] | None = None, **__: Any) -> None:
            if logs and "loss" in logs:
                trained = checksum(seen.popleft() for _ in range(config.batch.rows))
                turn.taken(self.seconds, float(logs["loss"]), trained)

    class InOrder(Trainer):
        def _get_train_sampler(self, *_: Any, **__: Any) -> torch.utils.data.Sampler[int]:
            return torch.utils.data.SequentialSampler(rows)

    trainer = InOrder(model, arguments, train_dataset=rows, data_collator=collate, callbacks=[Turns()])  # pyright: ignore[reportArgumentType]
    trainer.remove_callback(transformers.PrinterCallback)
    keep_apart(trainer.model, rows)
    trainer.train()
    turn.wait()


def compiled(config: Config, steps: int, turn: Turn) -> None:
    """A loop as one writes it: float32 weights under autocast, each decoder layer and the loss compiled."""
    from transformers import LlamaForCausalLM

    rows = rows_of(config, steps * config.batch.rows)
    attention = register_varlen() if CUDA else "sdpa"
    model: Any = LlamaForCausalLM.from_pretrained(
        config.model.path, dtype=torch.float32, attn_implementation=attention
    )
    device = torch.device("cuda" if CUDA else "cpu")
    model.to(device)
    keep_apart(model, rows)
    for layer in model.model.layers:
        layer.compile()

    @torch.compile
    def sum_of_losses(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(logits.float(), wanted, ignore_index=-100, reduction="sum")

    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=config.optimizer.lr,
        betas=config.optimizer.betas,
        eps=config.optimizer.eps,
        weight_decay=config.optimizer.weight_decay,
        fused=True,
    )
    micro_rows = config.batch.micro_rows
    for step in range(steps):
        chosen = rows[step * config.batch.rows :][: config.batch.rows]
        targets = sum(int((row["labels"] != -100).sum()) for row in chosen)
        turn.wait()
        _settle()
        began = time.perf_counter()
        total = torch.zeros((), device=device)
        for at in range(0, len(chosen), micro_rows):
            batch = to_device(collated(chosen[at : at + micro_rows]), device)
            labels = batch.pop("labels")
            with torch.autocast(device.type, torch.bfloat16, enabled=CUDA):
                logits = model(**batch, use_cache=False).logits
            loss = sum_of_losses(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()) / targets
            loss.backward()
            total += loss.detach()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.optimizer.clip)
        optimizer.step()
        optimizer.zero_grad()
        _settle()
        seconds = time.perf_counter() - began
        turn.taken(seconds, float(total), checksum((row["input_ids"], row["labels"]) for row in chosen))
    turn.wait()


def _settle() -> None:
    if CUDA:
        torch.cuda.synchronize()


SIDES: dict[str, Callable[[Config, int, Turn], None]] = {
    "ours": ours,
    "trainer": trainer,
    "trainer_liger": lambda config, steps, turn: trainer(config, steps, turn, liger=True, varlen=True),
    "compiled": compiled,
}


def main() -> None:
    side, config, steps, told = sys.argv[1:]
    if side != "ours" and not CUDA:
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    SIDES[side](load_config(config), int(steps), Turn(int(told)))


if __name__ == "__main__":
    main()
