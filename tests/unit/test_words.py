"""Texts encoded word by word: the tokenizer's own ids, and masks by its own offsets."""

from __future__ import annotations

import json
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from tokenization.borders import attribute
from tokenization.encoder import Encoder
from tokenization.sample import SpanKind
from tokenization.segments import Control, Text, joined
from tokenization.tokenizer_files import read_tokenizer, with_prefix
from tokenization.words import _WORD, Words, divides  # pyright: ignore[reportPrivateUsage]

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data"
real = pytest.mark.skipif(not DATA.is_dir(), reason="no real data beside the repository (../shared/data)")
FOLDERS = {"demo": ROOT / "configs/demo/tokenizer", "llama2": DATA / "llama2_tokenizer"}
every_tokenizer = pytest.mark.parametrize("name", ["demo", pytest.param("llama2", marks=real)])
on_any_machine = settings(deadline=None)


@cache
def plain(name: str) -> Tokenizer:
    tokenizer = with_prefix(read_tokenizer(FOLDERS[name])[0], "never")
    tokenizer.encode_special_tokens = True
    return tokenizer


@cache
def words(name: str) -> Words:
    return Words(plain(name))


@cache
def encoder(name: str) -> Encoder:
    return Encoder.from_folder(FOLDERS[name])


def ids_of(made: Words, text: str) -> list[int]:
    return np.frombuffer(made.ids(text), np.int32).tolist()


texts = st.lists(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
    | st.sampled_from(
        [
            " ",
            "  ",
            "\n",
            "\r\n",
            "\t",
            "▁",
            " ▁",
            "\u00a0",
            "\u3000",
            "hello",
            "</s>",
            "<0x0A>",
            "🙂",
            "你好",
            "é",
        ]
    ),
    max_size=12,
).map("".join)


@every_tokenizer
@on_any_machine
@given(text=texts)
def test_ids_are_those_of_the_whole_text(name: str, text: str) -> None:
    made = words(name)
    assert ids_of(made, text) == plain(name).encode(text, add_special_tokens=False).ids


@on_any_machine
@given(text=st.text("ab ▁\n\t", min_size=2, max_size=14), data=st.data())
def test_the_word_that_lies_across_a_place(text: str, data: st.DataObject) -> None:
    found = _WORD.findall(text)
    assert "".join(found) == text
    ends = [0, *accumulate(map(len, found))]
    at = data.draw(st.integers(1, len(text) - 1))
    start, stop = max(end for end in ends if end <= at), min(end for end in ends if end >= at)
    assert words("demo").across(text, at) == (start, stop)


@every_tokenizer
@on_any_machine
@given(data=st.data(), parts=st.lists(texts, min_size=1, max_size=5))
def test_kinds_and_mask_are_those_of_the_whole_texts_offsets(
    name: str, data: st.DataObject, parts: list[str]
) -> None:
    kinds = st.sampled_from([SpanKind.CONTROL, SpanKind.USER, SpanKind.TEXT, SpanKind.ARGUMENTS])
    text: Text = joined(*((part, data.draw(kinds), data.draw(st.booleans())) for part in parts))
    made = encoder(name).encode([Control(1), text], "s", "t")
    if not text.spans:
        assert len(made) == 1
        return
    offsets = plain(name).encode(text.text, add_special_tokens=False).offsets
    owners = [text.spans[at] for at in attribute(text.spans, offsets)]
    assert made.kinds[1:].tolist() == [span.kind for span in owners]
    assert made.trained[1:].tolist() == [span.trained for span in owners]


@real
def test_whole_files_as_sentencepiece_has_them() -> None:
    from sentencepiece import SentencePieceProcessor

    pieces = SentencePieceProcessor(model_file=str(DATA / "llama2_tokenizer" / "tokenizer.model"))
    made = words("llama2")
    count = 0
    for name in ("agentinstruct_db.json", "sharegpt_general.json", "glaive_toolcall_en.json"):
        rows: list[dict[str, Any]] = json.loads((DATA / "conversations" / name).read_text(encoding="utf-8"))
        for row in rows:
            for message in row["conversations"]:
                text = f" {message['value']}"  # SentencePiece puts this space by itself
                assert ids_of(made, text) == pieces.encode(text[1:])
                count += 1
    assert count == 6366


def changed(name: str, **changes: Any) -> Tokenizer:
    state = json.loads(plain("demo").to_str())
    section, _, key = name.partition(".")
    place = state[section] if key else state
    place.update(changes) if not key else place.update({key: changes["value"]})
    return Tokenizer.from_str(json.dumps(state))


def test_a_tokenizer_of_llamas_kind_divides() -> None:
    assert divides(plain("demo"))


@pytest.mark.parametrize("piece", ["a▁", "▁a▁b", "a\n", "\n\n"])
def test_a_piece_across_words_forbids_it(piece: str) -> None:
    state = json.loads(plain("demo").to_str())
    state["model"]["vocab"][piece] = 5000
    assert not divides(Tokenizer.from_str(json.dumps(state)))


@pytest.mark.parametrize(("left", "right"), [("<0x0A>", "t"), ("t", "<0x0A>"), ("<0x0A>", "<0x0A>")])
def test_a_line_end_merged_as_its_byte_forbids_it(left: str, right: str) -> None:
    state = json.loads(plain("demo").to_str())
    state["model"]["vocab"][left + right] = 5000
    state["model"]["merges"].insert(0, [left, right])
    merging = Tokenizer.from_str(json.dumps(state))
    text = (left + right).replace("<0x0A>", "\n")
    assert merging.encode(text, add_special_tokens=False).ids == [5000]
    assert not divides(merging)
    assert ids_of(Words(merging), text) == [5000]


def test_other_tokenizers_are_left_whole() -> None:
    byte_level = Tokenizer(models.BPE())
    byte_level.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    begins = with_prefix(plain("demo"), "first")
    no_bytes = changed("model.byte_fallback", value=False)
    no_space = Tokenizer(models.BPE({f"<0x{byte:02X}>": byte for byte in range(256)}, [], byte_fallback=True))
    no_space.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
    random = changed("model.dropout", value=0.1)
    found_in_text = with_prefix(plain("demo"), "never")
    found_in_text.add_tokens(["the answer"])
    normalised = with_prefix(plain("demo"), "never")
    normalised.normalizer = normalizers.Lowercase()
    for tokenizer in (byte_level, begins, no_bytes, no_space, random, found_in_text, normalised):
        assert not divides(tokenizer)
    left = Words(found_in_text)
    assert left.across("so the answer is", 2) == (0, 16)
    whole = found_in_text.encode("so the answer is", add_special_tokens=False).ids
    assert ids_of(left, "so the answer is") == whole


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokenization.words._WORDS", 10)
    monkeypatch.setattr("tokenization.words._TEXTS", 1000)
    made = Words(plain("demo"))
    for number in range(100):
        text = f" word{number} and" + "x" * 100
        for _ in range(2):
            assert ids_of(made, text) == plain("demo").encode(text, add_special_tokens=False).ids
        assert 0 < len(made._words) <= 10  # pyright: ignore[reportPrivateUsage]
        assert 0 < len(made._texts) <= 4  # pyright: ignore[reportPrivateUsage]
    assert ids_of(made, "x" * 2000) == plain("demo").encode("x" * 2000, add_special_tokens=False).ids
    assert len(made._texts) == 1  # pyright: ignore[reportPrivateUsage]
