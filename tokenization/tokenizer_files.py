"""Reading a tokenizer from disk: tokenizer.json as it is, tokenizer.model (SentencePiece) converted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, NamedTuple

from tokenizers import AddedToken, Tokenizer
from tokenizers.processors import TemplateProcessing

ADDED = "added_tokens.json"
FAST, SENTENCEPIECE, SETTINGS = "tokenizer.json", "tokenizer.model", "tokenizer_config.json"


class TokenNames(NamedTuple):
    """The control tokens as they are spelled in the vocabulary."""

    bos: str
    eos: str
    pad: str | None


def read_tokenizer(path: Path) -> tuple[Tokenizer, TokenNames]:
    """The tokenizer of a folder, or of a file with `tokenizer_config.json` beside it or not.

    A folder's tokenizer.json is preferred, as transformers does. Where tokenizer_config.json does not name
    bos and eos they are `<s>` and `</s>`. Raises ValueError with the remedy.
    """
    file = _tokenizer_file(path)
    settings = _object(file.parent / SETTINGS)
    try:
        tokenizer = Tokenizer.from_file(str(file)) if file.suffix == ".json" else _converted(file)
    except Exception as error:  # both libraries raise bare Exceptions for files that they cannot read
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{file} cannot be read as a tokenizer ({reason}); copy it again in full") from None
    if file.suffix == ".model":
        _add(tokenizer, _added(settings, file.parent / ADDED), file)
    return tokenizer, _names(settings)


def with_prefix(tokenizer: Tokenizer, scheme: Literal["never", "first"]) -> Tokenizer:
    """The same tokenizer, which puts the space that SentencePiece begins a text with nowhere, or before a text that
    stands at the very beginning.

    Llama's tokenizers come in two builds: one prepends "▁" to every stretch between control tokens (a normalizer), the
    other at the beginning alone (Metaspace), and transformers reads either as the latter. Byte-level tokenizers put
    no space with either scheme.
    """
    state = json.loads(tokenizer.to_str())
    normalizers = _steps(state["normalizer"], "normalizers")
    pre_tokenizers = _steps(state["pre_tokenizer"], "pretokenizers")
    if any(step["type"] == "Prepend" for step in normalizers):
        normalizers = [step for step in normalizers if step["type"] not in ("Prepend", "Replace")]
        metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": False}
        pre_tokenizers = [metaspace, *pre_tokenizers]
    for step in pre_tokenizers:
        if step["type"] == "Metaspace":
            step["prepend_scheme"] = scheme
        elif step["type"] == "ByteLevel":
            step["add_prefix_space"] = False
    state["normalizer"] = _sequence(normalizers, "normalizers")
    state["pre_tokenizer"] = _sequence(pre_tokenizers, "pretokenizers")
    return Tokenizer.from_str(json.dumps(state))


def prefix_scheme(tokenizer: Tokenizer) -> Literal["never", "first", "always"]:
    """Where it puts the space that SentencePiece begins a text with: nowhere, at the very beginning, or before every
    stretch between control tokens."""
    state = json.loads(tokenizer.to_str())
    steps = [*_steps(state["normalizer"], "normalizers"), *_steps(state["pre_tokenizer"], "pretokenizers")]
    schemes = ["always" if step["type"] == "Prepend" else step.get("prepend_scheme") for step in steps]
    return "always" if "always" in schemes else "first" if "first" in schemes else "never"


def put_bos(tokenizer: Tokenizer, bos: str) -> None:
    """bos before every text that is encoded with special tokens, as Llama's own tokenizer does."""
    tokenizer.post_processor = TemplateProcessing(
        single=f"{bos}:0 $A:0",
        pair=f"{bos}:0 $A:0 {bos}:1 $B:1",
        special_tokens=[(bos, tokenizer.token_to_id(bos))],
    )


def _steps(component: dict[str, Any] | None, key: str) -> list[dict[str, Any]]:
    if component is None:
        return []
    return list(component[key]) if component["type"] == "Sequence" else [component]


def _sequence(steps: list[dict[str, Any]], key: str) -> dict[str, Any] | None:
    if len(steps) < 2:
        return steps[0] if steps else None
    return {"type": "Sequence", key: steps}


def _tokenizer_file(path: Path) -> Path:
    if path.is_file():
        if path.suffix not in (".json", ".model"):
            raise ValueError(f"{path} is no tokenizer file; name a {FAST}, a {SENTENCEPIECE} or their folder")
        return path
    if not path.is_dir():
        raise ValueError(f"no such folder or file: {path}; name a folder on this machine with {FAST}")
    for name in (FAST, SENTENCEPIECE):
        if (path / name).is_file():
            return path / name
    raise ValueError(f"{path} holds neither {FAST} nor {SENTENCEPIECE}; copy the model's tokenizer there")


def _converted(file: Path) -> Tokenizer:
    """A SentencePiece model as a fast tokenizer that gives SentencePiece's ids.

    The merges are ordered by the pieces' scores, as SentencePiece applies them. transformers' own reading of
    the file orders them by id, which splits runs of spaces (indented code) in another way.
    """
    # Both take a second to import, and only a folder without tokenizer.json needs them.
    from sentencepiece import SentencePieceProcessor
    from transformers import LlamaTokenizer
    from transformers.tokenization_utils_base import generate_merges

    pieces = SentencePieceProcessor(model_file=str(file))
    vocabulary = {pieces.id_to_piece(i): i for i in range(pieces.get_piece_size())}
    scores = {piece: pieces.get_score(i) for piece, i in vocabulary.items()}
    merges = generate_merges(vocabulary, scores)
    # legacy=False: no space is put before a text that follows a control token and begins with one.
    return LlamaTokenizer(vocab=vocabulary, merges=merges, legacy=False).backend_tokenizer


def _added(settings: dict[str, Any], older: Path) -> dict[int, AddedToken]:
    """Tokens by id that a model has beside its pieces: of tokenizer_config.json, else of the older file."""
    decoder = settings.get("added_tokens_decoder")
    if isinstance(decoder, dict):
        return {int(i): AddedToken(**token) for i, token in decoder.items()}
    return {i: AddedToken(token, special=True, normalized=False) for token, i in _object(older).items()}


def _add(tokenizer: Tokenizer, added: dict[int, AddedToken], file: Path) -> None:
    """Raises ValueError where a token does not get the id that it was trained with."""
    for i, token in sorted(added.items(), key=lambda item: item[0]):
        if tokenizer.token_to_id(token.content) is None:
            tokenizer.add_tokens([token])
        if (found := tokenizer.token_to_id(token.content)) != i:
            raise ValueError(
                f"{file.parent}: token {token.content!r} is to have id {i} but has {found} after the tokens of "
                f"{file.name} and those added before it; save the tokenizer with transformers, which writes {FAST}"
            )


def _object(file: Path) -> dict[str, Any]:
    """A JSON object; empty where there is no such file."""
    if not file.is_file():
        return {}
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not valid JSON ({error}); copy it again in full") from None
    if not isinstance(values, dict):
        raise ValueError(f"{file} does not hold an object; copy it again in full")
    return values


def _names(settings: dict[str, Any]) -> TokenNames:
    def named(key: str) -> str | None:
        token = settings.get(key)
        return token.get("content") if isinstance(token, dict) else token

    return TokenNames(
        bos=named("bos_token") or "<s>", eos=named("eos_token") or "</s>", pad=named("pad_token")
    )
