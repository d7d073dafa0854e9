"""What serves trained weights, written beside them: config, tokenizer, chat template and stops. No torch here.

The tokenizer is written so that transformers encodes the text of the chat template into the very ids that training
saw. There each text between control tokens is encoded on its own, with no space put in front; so a space is put at the
very beginning alone, control tokens take no white space with them, and where a template encodes what opens a turn
apart from the turn, the tokenizer parts the two.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from tokenization.conversation import Conversation, Message
from tokenization.encoder import Encoder
from tokenization.segments import ControlIds, Text
from tokenization.templates import folder
from tokenization.templates.template import Template
from tokenization.tokenizer_files import (
    FAST,
    SENTENCEPIECE,
    SETTINGS,
    TokenNames,
    put_bos,
    read_tokenizer,
    with_prefix,
)

CHAT_TEMPLATE, GENERATION = "chat_template.jinja", "generation_config.json"
COPIED_PATTERNS = ("tokenizer*", "special_tokens_map.json", "added_tokens.json")
"""A tokenizer's files where the template is the folder's own."""
DROPPED = ("chat_template", "auto_map", "add_prefix_space", "split_special_tokens", "legacy")
"""Settings of tokenizer_config.json that would speak against the files written here, or name code that is not here."""

_LLAMA, _GENERIC = "LlamaTokenizer", "PreTrainedTokenizerFast"


def write_bundle(
    model_folder: Path, out: Path, template: Template, encoder: Encoder, *, vocab: int, dtype: str
) -> None:
    """Write all files but the weights of the model folder, trained with this template and tokenizer.

    vocab: rows of the embedding that was trained; dtype: of the weights, such as `bfloat16`.
    Raises ValueError or OSError where the model folder's files cannot be read any more.
    """
    config = _read(model_folder / "config.json")
    config |= {"vocab_size": vocab, "dtype" if "dtype" in config else "torch_dtype": dtype}
    _write(out / "config.json", config)
    _write(out / GENERATION, generation_config(model_folder, template, encoder))
    if template.name == folder.NAME:
        _copy_tokenizer(model_folder, out)
    else:
        _write_tokenizer(model_folder, out, template, encoder.control)
    (out / CHAT_TEMPLATE).write_text(template.chat_template, encoding="utf-8")


def generation_config(model_folder: Path, template: Template, encoder: Encoder) -> dict[str, Any]:
    """The model's generation config with every id that ends a turn in `eos_token_id`.

    Stops the folder has already stay, but for the template's joint, which ends nothing. Raises ValueError where the
    folder's file cannot be read.
    """
    file = model_folder / GENERATION
    values = _read(file) if file.is_file() else {"bos_token_id": encoder.bos}
    values.pop("_from_model_config", None)  # it has transformers take the one stop of config.json
    own = values.get("eos_token_id")
    stops = [encoder.eos, *(encoder.special[token] for token in template.stop_tokens)]
    stops += own if isinstance(own, list) else [] if own is None else [own]
    joint = encoder.special[template.joint] if template.joint else None
    stops = [stop for stop in dict.fromkeys(stops) if stop != joint]
    return values | {"eos_token_id": stops[0] if len(stops) == 1 else stops}


def _copy_tokenizer(model_folder: Path, out: Path) -> None:
    """The files as they came: the folder's own template counts on transformers' reading of them."""
    for pattern in COPIED_PATTERNS:
        for file in sorted(model_folder.glob(pattern)):
            if file.is_file():
                shutil.copyfile(file, out / file.name)
    if (out / SETTINGS).is_file():
        _write(out / SETTINGS, {k: v for k, v in _read(out / SETTINGS).items() if k != "chat_template"})


def _write_tokenizer(model_folder: Path, out: Path, template: Template, control: ControlIds) -> None:
    tokenizer, names = read_tokenizer(model_folder)
    settings = _read(model_folder / SETTINGS) if (model_folder / SETTINGS).is_file() else {}
    if not (model_folder / FAST).is_file() and settings.get("add_bos_token", True):
        put_bos(tokenizer, names.bos)
    if (model_folder / SENTENCEPIECE).is_file():  # for readers that know no other
        shutil.copyfile(model_folder / SENTENCEPIECE, out / SENTENCEPIECE)
    tokenizer = with_prefix(tokenizer, "first")
    tokenizer.no_truncation()
    tokenizer.no_padding()
    words = (names.bos, names.eos, *template.special_tokens)
    # Those that are there keep their ids, and from now on leave the white space beside them alone.
    tokenizer.add_special_tokens([AddedToken(word, normalized=False, special=True) for word in words])
    state = json.loads(tokenizer.to_str())
    plain = _is_plain_llama(state)
    opening = _opening(template, control)
    if opening is not None and not plain:
        state["pre_tokenizer"] = _parted(state["pre_tokenizer"], opening)
    Tokenizer.from_str(json.dumps(state)).save(str(out / FAST))
    _write(out / SETTINGS, _settings(settings, names, state["added_tokens"], plain))


def _settings(
    settings: dict[str, Any], names: TokenNames, added: list[dict[str, Any]], plain: bool
) -> dict[str, Any]:
    """tokenizer_config.json: the folder's, with a class that reads tokenizer.json as it is.

    transformers' LlamaTokenizer builds Llama's own steps whatever the file says, so it stays only where the file says
    the same. `added_tokens_decoder` is for readers of tokenizer.model, which lacks the tokens added.
    """
    kept = {key: value for key, value in settings.items() if key not in DROPPED}
    named = {"bos_token": names.bos, "eos_token": names.eos}
    decoder = {str(token["id"]): {k: v for k, v in token.items() if k != "id"} for token in added}
    given = settings.get("tokenizer_class") or _LLAMA
    if plain and given.removesuffix("Fast") == _LLAMA:
        return kept | named | {"added_tokens_decoder": decoder, "tokenizer_class": given, "legacy": False}
    return kept | named | {"added_tokens_decoder": decoder, "tokenizer_class": _GENERIC}


def _is_plain_llama(state: dict[str, Any]) -> bool:
    """Whether a tokenizer takes the steps that transformers' LlamaTokenizer takes, and parts text at each line end."""
    steps = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
    model = state["model"]
    return (
        model["type"] == "BPE"
        and model["byte_fallback"]
        and state["normalizer"] is None
        and state["pre_tokenizer"] == steps
        and not any("\n" in piece and len(piece) > 1 for piece in model["vocab"])
    )


def _opening(template: Template, control: ControlIds) -> str | None:
    """What stands between a prompt's last control token and the turn, if that is the same text for every prompt."""
    prompts = [
        template.render(Conversation("probe", (Message("user", text),)), control, generate=True)
        for text in ("a", "b")
    ]
    last = prompts[0][-1]
    return last.text if isinstance(last, Text) and last == prompts[1][-1] else None


def _parted(pre_tokenizer: dict[str, Any] | None, opening: str) -> dict[str, Any]:
    """The steps behind one that parts `opening` at the beginning of a stretch from what follows it."""
    split = {
        "type": "Split",
        "pattern": {"Regex": rf"\A{re.escape(opening)}"},
        "behavior": "Isolated",
        "invert": False,
    }
    steps = [pre_tokenizer] if pre_tokenizer else []
    if pre_tokenizer and pre_tokenizer["type"] == "Sequence":
        steps = pre_tokenizer["pretokenizers"]
    return {"type": "Sequence", "pretokenizers": steps if split in steps else [split, *steps]}


def _read(file: Path) -> dict[str, Any]:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not valid JSON ({error}); copy it again in full") from None
    if not isinstance(values, dict):
        raise ValueError(f"{file} does not hold an object; copy it again in full")
    return values


def _write(file: Path, values: dict[str, Any]) -> None:
    file.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
