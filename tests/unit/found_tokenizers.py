"""Tokenizers as model folders have them, and such a folder written again with a template."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer

from configs.shapes import SHAPES
from tokenization.bundle import write_bundle
from tokenization.encoder import Encoder
from tokenization.segments import Segment, Text
from tokenization.templates import TEMPLATES, open_template
from tokenization.templates.template import Template
from tokenization.tokenizer_files import read_tokenizer

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "configs" / "demo" / "tokenizer"
REAL = ROOT.parent / "shared" / "data" / "llama2_tokenizer"
PREPEND = [
    {"type": "Prepend", "prepend": "▁"},
    {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
]


def hub_tokenizer(folder: Path) -> dict[str, Any]:
    """tokenizer.json as Llama 2's folders on the hub have it: a space before every stretch, by a normalizer."""
    state = json.loads(read_tokenizer(folder)[0].to_str())
    state["normalizer"] = {"type": "Sequence", "normalizers": PREPEND}
    state["pre_tokenizer"] = None
    return state


def bytes_tokenizer(pattern: str | None) -> Tokenizer:
    """Byte-level BPE that merges line ends where `pattern`, which parts a text into words, lets it."""
    tokenizer = Tokenizer(models.BPE())
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None)
    steps = [pre_tokenizers.Split(Regex(pattern), "isolated"), level] if pattern else [level]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps) if pattern else level
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    words = "user\nassistant\n\n\nthe answer\n\n  is here.\n\n\n\nassistant\n\nwhere [INST] hi [/INST] !\n\n"
    tokenizer.train_from_iterator([words] * 3, trainer)
    return tokenizer


LLAMA3 = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
NAMES = {"bos_token": "<s>", "eos_token": "</s>"}
ADDED_TOKEN = {
    "__type": "AddedToken",
    "lstrip": False,
    "normalized": True,
    "rstrip": False,
    "single_word": False,
}
LEGACY = {
    "bos_token": ADDED_TOKEN | {"content": "<s>"},
    "eos_token": ADDED_TOKEN | {"content": "</s>"},
    "unk_token": ADDED_TOKEN | {"content": "<unk>"},
    "add_bos_token": True,
    "add_eos_token": False,
    "chat_template": "{{ 'another' }}",
    "added_tokens_decoder": {
        "1": {k: v for k, v in ADDED_TOKEN.items() if k != "__type"} | {"content": "<s>"}
    },
}


@dataclass(frozen=True)
class Found:
    """A tokenizer as a model folder has it."""

    tokenizer: Path | Tokenizer
    settings: dict[str, Any] | None = None
    """tokenizer_config.json; None: no such file, or the one that came with a folder of ours."""
    hub: bool = False
    templates: tuple[str, ...] = tuple(TEMPLATES)
    """Those it is tried with."""

    def write(self, folder: Path) -> Path:
        folder.mkdir()
        if isinstance(self.tokenizer, Tokenizer):
            self.tokenizer.save(str(folder / "tokenizer.json"))
        elif self.hub:
            (folder / "tokenizer.json").write_text(
                json.dumps(hub_tokenizer(self.tokenizer)), encoding="utf-8"
            )
        else:
            for file in self.tokenizer.iterdir():
                shutil.copyfile(file, folder / file.name)
        if self.settings is not None:
            (folder / "tokenizer_config.json").write_text(json.dumps(self.settings))
        (folder / "config.json").write_text(json.dumps(SHAPES["tiny"].hf_config()))
        return folder


CLASSES = ("LlamaTokenizer", "LlamaTokenizerFast", "PreTrainedTokenizerFast")
HUB = {
    f"{name} legacy {legacy}": LEGACY
    | {"tokenizer_class": name}
    | ({} if legacy is None else {"legacy": legacy})
    for name in CLASSES
    for legacy in (True, False, None)
}
FOUND = {
    "demo": Found(DEMO),
    "demo, hub, no settings": Found(DEMO, hub=True),
    **{f"demo, hub, {name}": Found(DEMO, found, hub=True) for name, found in HUB.items()},
    "bytes, no settings": Found(bytes_tokenizer(None)),
    "bytes, PreTrainedTokenizerFast": Found(
        bytes_tokenizer(None), NAMES | {"tokenizer_class": "PreTrainedTokenizerFast"}
    ),
    "bytes, GPT2Tokenizer": Found(
        bytes_tokenizer(LLAMA3), NAMES | {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": True}
    ),
    "bytes, LlamaTokenizer": Found(bytes_tokenizer(LLAMA3), NAMES | {"tokenizer_class": "LlamaTokenizer"}),
    "Llama 2, tokenizer.model": Found(REAL, templates=("llama2", "chatglm3")),
    "Llama 2, hub": Found(REAL, HUB["LlamaTokenizer legacy None"], hub=True, templates=("chatml",)),
}


@dataclass(frozen=True)
class Served:
    """A written folder as transformers reads it, beside what trained it."""

    out: Path
    template: Template
    encoder: Encoder
    tokenizer: Any

    def ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def text(self, segments: Sequence[Segment]) -> str:
        """The segments as the one string that a chat template would write."""
        spelled = {self.encoder.bos: "<s>", self.encoder.eos: "</s>"}
        spelled |= {id: token for token, id in self.encoder.special.items()}
        return "".join(s.text if isinstance(s, Text) else spelled[s.id] for s in segments)


def serve(model: Path, name: str, out: Path) -> Served:
    out.mkdir()
    template, encoder = open_template(name, model)
    write_bundle(model, out, template, encoder, vocab=encoder.vocab_size, dtype="bfloat16")
    return Served(out, template, encoder, AutoTokenizer.from_pretrained(out))


def serve_one(found: Found, name: str, folder: Path, **companions: Any) -> Served:
    """With other JSON files beside the model's."""
    model = found.write(folder / "model")
    for file, values in companions.items():
        (model / f"{file}.json").write_text(json.dumps(values))
    return serve(model, name, folder / "out")
