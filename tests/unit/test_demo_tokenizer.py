"""The demo's tokenizer is built like Llama 2's."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_demo_data import AGENT, DEMO, GENERAL, ROOT
from tokenizers import Tokenizer
from transformers import AutoTokenizer, LlamaTokenizer

REAL_TOKENIZER = ROOT.parent / "shared" / "data" / "llama2_tokenizer" / "tokenizer.model"


def load() -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(DEMO / "tokenizer" / "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    return tokenizer


TOKENIZER = load()


def ids(text: str) -> list[int]:
    return TOKENIZER.encode(text, add_special_tokens=False).ids


def test_ids_are_laid_out_as_in_llama_2() -> None:
    vocabulary = TOKENIZER.get_vocab()
    assert sorted(vocabulary.values()) == list(range(1201))
    assert [vocabulary[piece] for piece in ("<unk>", "<s>", "</s>", "<0x00>", "<0x0A>", "<0xFF>")] == [
        0, 1, 2, 3, 13, 258,
    ]  # fmt: skip
    assert ids("\n")[-1] == 13


@given(st.text())
def test_decoding_gives_the_text_back(text: str) -> None:
    # The space put before a text is taken off again; a text that brings its own loses it. "▁" is a space.
    spaced = text.replace("▁", " ")
    assert TOKENIZER.decode(ids(text), skip_special_tokens=False) == spaced.removeprefix(" ")


@given(st.text(alphabet="<s>/unk0xA [INST]", max_size=30))
def test_text_never_becomes_a_control_token(text: str) -> None:
    assert not {0, 1, 2} & set(ids(text))


def test_pieces_keep_within_words_and_digits_stand_alone() -> None:
    for piece, index in TOKENIZER.get_vocab().items():
        if index >= 259:
            assert "▁" not in piece[1:]
            assert "\n" not in piece
            assert len(piece) == 1 or not re.search(r"\d", piece)


def test_the_texts_take_less_than_a_token_for_three_characters() -> None:
    agent = [turn["value"] for row in AGENT for turn in row["conversations"]]
    general = [message["content"] for row in GENERAL for message in row["messages"]]
    characters = sum(map(len, agent + general))
    assert characters / sum(len(ids(text)) for text in agent + general) >= 3
    lengths = [sum(len(ids(turn["value"])) for turn in row["conversations"]) for row in AGENT]
    assert min(lengths) >= 100
    assert max(lengths) <= 450


def test_transformers_reads_the_folder_the_same_way() -> None:
    read_back = AutoTokenizer.from_pretrained(DEMO / "tokenizer")
    assert (read_back.unk_token_id, read_back.bos_token_id, read_back.eos_token_id) == (0, 1, 2)
    assert read_back.pad_token_id is None
    assert len(read_back) == 1201
    for row in AGENT[:40]:
        for turn in row["conversations"]:
            assert read_back.encode(turn["value"], add_special_tokens=False) == ids(turn["value"])


def test_the_build_is_that_of_the_real_tokenizer(tmp_path: Path) -> None:
    if not REAL_TOKENIZER.exists():
        pytest.skip("no Llama 2 tokenizer beside the repository")
    (tmp_path / "tokenizer.model").write_bytes(REAL_TOKENIZER.read_bytes())
    LlamaTokenizer.from_pretrained(tmp_path, legacy=False).save_pretrained(tmp_path / "out")
    real = json.loads((tmp_path / "out" / "tokenizer.json").read_text(encoding="utf-8"))
    ours = json.loads((DEMO / "tokenizer" / "tokenizer.json").read_text(encoding="utf-8"))
    for build in (real, ours):
        del build["model"]["vocab"], build["model"]["merges"]
    assert ours == real
