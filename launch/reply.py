"""What a run's newest checkpoint answers, by transformers alone: `python launch/reply.py RUN_DIR DATA.jsonl ID`.

The conversation ID of an AgentInstruct-form file is given up to its first trained reply, and the model goes on
greedily. Nothing of ours is imported, so an answer shows the written folder to be an ordinary Hugging Face model.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def beginning(data: Path, row_id: str) -> tuple[list[str], str]:
    """Messages before the first trained reply, human and model in turn, and that reply."""
    for line in data.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row["id"] == row_id:
            turns = row["conversations"]
            first = next(i for i, turn in enumerate(turns) if turn["loss"])
            return [turn["value"] for turn in turns[:first]], turns[first]["value"]
    raise SystemExit(f"{data} has no row with the id {row_id}")


def reply(folder: Path, messages: list[str], max_tokens: int = 96) -> str:
    """The model's greedy answer to a prompt by the folder's own chat template, up to one of its stop tokens."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder)

    roles = ("user", "assistant")
    chat = [{"role": roles[i % 2], "content": message} for i, message in enumerate(messages)]
    prompt: list[int] = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    inputs = torch.tensor([prompt])
    output = model.generate(
        inputs,
        attention_mask=torch.ones_like(inputs),
        max_new_tokens=max_tokens,
        do_sample=False,
        pad_token_id=tokenizer.eos_token_id,
    )
    return tokenizer.decode(output[0, len(prompt) :], skip_special_tokens=True).strip()


def main(run: Path, data: Path, row_id: str) -> None:
    checkpoint = run / "checkpoints" / (run / "checkpoints" / "latest").read_text().strip()
    messages, expected = beginning(data, row_id)
    print(f"\nIn the data, row {row_id}, question and first call:\n\n{messages[-1]}\n\n{expected}")
    print(f"\nGreedy reply of transformers on {checkpoint}:\n\n{reply(checkpoint, messages)}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
