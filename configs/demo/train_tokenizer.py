"""Train the demo's tokenizer on the demo's texts, the same files every time.

    python configs/demo/train_tokenizer.py [--out FOLDER]

It has the build of Llama 2's: ids 0 to 2 are `<unk>`, `<s>` and `</s>`, then come the 256 bytes, then pieces;
a space is written as "▁", digits stand alone, what no piece covers is spelled in bytes. No pad token.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

VOCABULARY = 1201
"""Odd on purpose: two tensor ranks have to pad it."""
SPECIAL = ("<unk>", "<s>", "</s>")
BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))
RARE = 20
"""A character seen less often than this gets no piece of its own, unless it is printable ASCII."""
WORD = Regex(r"▁?[\p{L}_]+|\p{N}|▁?[^\p{L}\p{N}_▁\n]+|▁")
"""What merges stay within while learning: a word or a run of marks, with the space before it; one digit."""

FOLDER = Path(__file__).parent
CONFIG = {
    "backend": "tokenizers",
    "bos_token": "<s>",
    "clean_up_tokenization_spaces": False,
    "eos_token": "</s>",
    "tokenizer_class": "LlamaTokenizer",
    "unk_token": "<unk>",
}


def rows(name: str) -> Iterator[dict[str, list[dict[str, str]]]]:
    with open(FOLDER / name, encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def texts() -> Iterator[str]:
    """The messages of the two data sets, with Llama 2's marks, so that the marks get short pieces too."""
    for row in rows("agent.jsonl"):
        for message in row["conversations"]:
            yield marked("user" if message["from"] == "human" else "assistant", message["value"])
    for row in rows("general.jsonl"):
        for message in row["messages"]:
            yield marked(message["role"], message["content"])


def marked(role: str, text: str) -> str:
    return {"system": f"<<SYS>>\n{text}\n<</SYS>>", "user": f"[INST] {text} [/INST]", "assistant": text}[role]


def learn(corpus: Sequence[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """The pieces beyond the bytes, in order of id, and the merges that make them, in order of use.

    In use the text is not split into words, and merges still keep within them: "▁" only begins a piece.
    """
    counts = Counter("".join(corpus))
    alphabet = {"▁", *map(chr, range(33, 127))} | {sign for sign, count in counts.items() if count >= RARE}
    alphabet -= {" ", "\n"}
    # WORD leaves line ends out, so a rare character becomes one: it belongs to no word.
    uncovered = {ord(sign): "\n" for sign in counts if sign not in alphabet and sign != " "}
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [metaspace(), pre_tokenizers.Split(WORD, "removed", invert=True)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(SPECIAL) - len(BYTES),
        initial_alphabet=sorted(alphabet),
        show_progress=False,
    )
    learner.train_from_iterator((text.translate(uncovered) for text in corpus), trainer)
    model = json.loads(learner.to_str())["model"]
    return sorted(model["vocab"], key=model["vocab"].__getitem__), [tuple(pair) for pair in model["merges"]]


def metaspace() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)


def build(pieces: Sequence[str], merges: list[tuple[str, str]]) -> Tokenizer:
    """The tokenizer as transformers converts Llama 2's: no normalizer, nothing added around a text."""
    vocabulary = {piece: index for index, piece in enumerate((*SPECIAL, *BYTES, *pieces))}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, byte_fallback=True, fuse_unk=True))
    tokenizer.add_special_tokens([AddedToken(piece, special=True, normalized=False) for piece in SPECIAL])
    tokenizer.pre_tokenizer = metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A", pair="$A:0 $B:1", special_tokens=[])
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(content=" ", left=1, right=0),
        ]
    )
    return tokenizer


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Train the demo's tokenizer, the same files every time.")
    parser.add_argument("--out", type=Path, default=FOLDER / "tokenizer", help="folder to write into")
    folder: Path = parser.parse_args(arguments).out
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = build(*learn(list(texts())))
    files = {"tokenizer.json": json.loads(tokenizer.to_str()), "tokenizer_config.json": CONFIG}
    for name, content in files.items():
        (folder / name).write_bytes((json.dumps(content, ensure_ascii=False, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
