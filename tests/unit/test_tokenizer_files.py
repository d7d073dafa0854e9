"""Tokenizers found on disk, brought into one form, and refused with a remedy."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from test_encoder import tiny_tokenizer
from tokenizers import AddedToken, Tokenizer
from transformers import AutoTokenizer

from tokenization.conversation import Conversation, Message
from tokenization.encoder import Encoder
from tokenization.sample import SpanKind
from tokenization.segments import Control, joined
from tokenization.templates.llama2 import LLAMA2
from tokenization.tokenizer_files import read_tokenizer, with_prefix

ROOT = Path(__file__).parents[2]
TOKENIZER = ROOT.parent / "shared" / "data" / "llama2_tokenizer"
real = pytest.mark.skipif(
    not TOKENIZER.is_dir(), reason="no real data beside the repository (../shared/data)"
)
CONTROL, TEXT = SpanKind.CONTROL, SpanKind.TEXT


def saved(folder: Path, tokenizer: Tokenizer, **settings: object) -> Path:
    tokenizer.save(str(folder / "tokenizer.json"))
    if settings:
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def test_folder_and_lone_file(tmp_path: Path) -> None:
    saved(tmp_path, tiny_tokenizer())
    for path in (tmp_path, str(tmp_path), tmp_path / "tokenizer.json"):
        assert Encoder.from_folder(path).control == Encoder(tiny_tokenizer()).control


def test_control_tokens_are_named_by_the_settings(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens(["<begin>", "<end>", "<pad>"])
    saved(tmp_path, tokenizer, bos_token={"content": "<begin>"}, eos_token="<end>", pad_token="<pad>")
    named = Encoder.from_folder(tmp_path)
    assert (named.bos, named.eos, named.pad_id) == (275, 276, 277)
    segments = [Control(named.bos, CONTROL), joined(("<end>hi<begin>", TEXT, True))]
    assert not {275, 276} & set(named.encode(segments, "s", "t").tokens[1:].tolist())


def test_missing_tokenizers_are_named_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no such folder or file: .*nowhere; name a folder on this machine"):
        Encoder.from_folder(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"holds neither tokenizer\.json nor tokenizer\.model; copy"):
        Encoder.from_folder(tmp_path)
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(ValueError, match=r"notes\.txt is no tokenizer file"):
        Encoder.from_folder(tmp_path / "notes.txt")


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer.model"])
def test_unreadable_tokenizers(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(ValueError, match="cannot be read as a tokenizer") as caught:
        Encoder.from_folder(tmp_path)
    assert "\n" not in str(caught.value)


def test_unusable_settings(tmp_path: Path) -> None:
    saved(tmp_path, tiny_tokenizer(), eos_token="<|end|>")
    with pytest.raises(ValueError, match=r"token '<\|end\|>' is not in the vocabulary of 275 tokens; name"):
        Encoder.from_folder(tmp_path)
    for text, says in (("{", "is not valid JSON"), ("[]", "does not hold an object")):
        (tmp_path / "tokenizer_config.json").write_text(text)
        with pytest.raises(ValueError, match=says):
            Encoder.from_folder(tmp_path)


def test_a_tokenizer_that_reads_control_tokens_in_text_is_refused(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens([AddedToken("<end>", special=False)])
    with pytest.raises(ValueError, match="reads '<end>' in a text as a control token"):
        Encoder.from_folder(saved(tmp_path, tokenizer, eos_token="<end>"))


@real
def test_a_sentencepiece_model_equals_its_converted_twin(tmp_path: Path) -> None:
    read_tokenizer(TOKENIZER)[0].save(str(tmp_path / "tokenizer.json"))
    talk = Conversation("t", (Message("user", "你好  </s>"), Message("assistant", "a\n\n  🙂")))
    lone = TOKENIZER / "tokenizer.model"
    made = []
    for path in (TOKENIZER, lone, tmp_path):
        from_disk = Encoder.from_folder(path)
        assert (from_disk.vocab_size, from_disk.bos, from_disk.eos, from_disk.pad_id) == (32000, 1, 2, 0)
        made.append(from_disk.encode(LLAMA2.render(talk, from_disk.control), "s", "t").tokens.tolist())
    assert made[0] == made[1] == made[2]


SPECIAL = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
ADDED = {"<|im_end|>": 32000, "<|im_start|>": 32001}


@real
@pytest.mark.parametrize("file", ["added_tokens.json", "tokenizer_config.json"])
def test_tokens_beside_a_sentencepiece_model_keep_their_ids(tmp_path: Path, file: str) -> None:
    """They have trained rows in the weights, and a template must not number them anew."""
    shutil.copyfile(TOKENIZER / "tokenizer.model", tmp_path / "tokenizer.model")
    decoder = {str(i): {"content": token, **SPECIAL} for token, i in ADDED.items()}
    settings: dict[str, Any] = {"tokenizer_class": "LlamaTokenizer", "eos_token": "<|im_end|>"}
    if file == "added_tokens.json":
        (tmp_path / file).write_text(json.dumps(ADDED))
    else:
        settings["added_tokens_decoder"] = decoder
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    encoder = Encoder.from_folder(tmp_path, sorted(ADDED, reverse=True))
    assert encoder.special == ADDED
    assert (encoder.own_size, encoder.vocab_size) == (32002, 32002)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert {token: theirs.convert_tokens_to_ids(token) for token in ADDED} == ADDED


@real
def test_a_token_without_a_place_for_its_id(tmp_path: Path) -> None:
    shutil.copyfile(TOKENIZER / "tokenizer.model", tmp_path / "tokenizer.model")
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<|im_end|>": 32005}))
    with pytest.raises(
        ValueError, match=r"'<\|im_end\|>' is to have id 32005 but has 32000 after the tokens of"
    ):
        Encoder.from_folder(tmp_path)


def test_starting_is_light(tmp_path: Path) -> None:
    """A folder with tokenizer.json is read without importing transformers or torch."""
    saved(tmp_path, tiny_tokenizer())
    code = (
        "import sys; from tokenization.builder import SampleBuilder; "
        "from tokenization.encoder import Encoder; import tokenization.preview; "
        "SampleBuilder(Encoder.from_folder(sys.argv[1])); "
        "print([name for name in ('torch', 'transformers', 'configs', 'trainer') if name in sys.modules])"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


TEXTS = ["hi", " hi", "  hi", "▁hi", "", " ", "\n", "\nhi", "hi  hi ", "[INST] hi", "é🙂", "</s>"]


@real
def test_both_builds_of_llamas_tokenizer_come_to_one() -> None:
    """As SentencePiece encodes each text, but without the space that it begins a text with."""
    from sentencepiece import SentencePieceProcessor

    pieces = SentencePieceProcessor(model_file=str(TOKENIZER / "tokenizer.model"))
    at_the_beginning = read_tokenizer(TOKENIZER)[0]
    state = json.loads(at_the_beginning.to_str())
    replaced = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    prepended = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, replaced]}
    state |= {"normalizer": prepended, "pre_tokenizer": None}
    everywhere = Tokenizer.from_str(json.dumps(state))
    for tokenizer in (at_the_beginning, everywhere):
        plain = with_prefix(tokenizer, "never")
        plain.encode_special_tokens = True
        for text in TEXTS:
            own = plain.encode(f" {text}", add_special_tokens=False).ids if text else []
            assert own == pieces.encode(text), text
        first = with_prefix(tokenizer, "first")
        for text in TEXTS:
            ids = first.encode(f"<s>{text}", add_special_tokens=False).ids
            assert ids[1:] == plain.encode(text, add_special_tokens=False).ids or "</s>" in text, text


def test_control_tokens_that_a_template_needs_are_added_at_the_end() -> None:
    tokenizer = tiny_tokenizer()
    size = tokenizer.get_vocab_size()
    made = Encoder(tokenizer, special=("<|user|>", "<|assistant|>"))
    assert (made.own_size, made.vocab_size) == (size, size + 2)
    assert dict(made.special) == {"<|user|>": size, "<|assistant|>": size + 1}
    text = joined(("<|user|> <|assistant|>", TEXT, True))
    assert max(made.ids([text])) < size
    again = Encoder(made._tokenizer, special=("<|assistant|>",))
    assert (again.own_size, again.special["<|assistant|>"]) == (size + 2, size + 1)


def test_a_generated_text_keeps_its_first_space_and_its_parts() -> None:
    made = Encoder(tiny_tokenizer(), special=("<|assistant|>",))
    said = made.ids([joined((" hi", TEXT, True))])
    joint = made.special["<|assistant|>"]
    assert made.texts([*said, joint, joint, *made.ids([joined(("hi", TEXT, True))])], "<|assistant|>") == [
        " hi",
        "",
        "hi",
    ]
