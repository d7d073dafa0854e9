"""What a run's newest checkpoint answers, by transformers alone: `python launch/reply.py RUN_DIR QUESTION`.

Nothing of ours is used, so that an answer shows the written folder to be an ordinary Hugging Face model. One
turn in Llama 2's chat format, greedy; for more than that, load the folder in the tool of your choice.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any


def reply(folder: Path, question: str, max_tokens: int = 96) -> str:
    """The model's greedy answer to one question, up to its end-of-sequence token."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    ids = [
        tokenizer.bos_token_id,
        *tokenizer(f"[INST] {question} [/INST]", add_special_tokens=False).input_ids,
    ]
    prompt = torch.tensor([ids])
    output = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=max_tokens,
        do_sample=False,
        pad_token_id=tokenizer.eos_token_id,
    )
    return tokenizer.decode(output[0, len(ids) :], skip_special_tokens=True).strip()


if __name__ == "__main__":
    run, question = Path(sys.argv[1]), sys.argv[2]
    checkpoint = run / "checkpoints" / (run / "checkpoints" / "latest").read_text().strip()
    print(f"\n{checkpoint}\n> {question}\n{reply(checkpoint, question)}")
