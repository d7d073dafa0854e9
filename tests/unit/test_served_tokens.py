"""transformers reads the written folders, and gives the tokens of training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from found_tokenizers import FOUND, REAL, Found, Served, bytes_tokenizer, serve, serve_one
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from tokenization.conversation import Call, Conversation, Message
from tokenization.segments import joined, markup
from tokenization.templates import TEMPLATES

real = pytest.mark.skipif(not REAL.is_dir(), reason="no real data beside the repository (../shared/data)")


@pytest.fixture(scope="module", params=[pytest.param(n, marks=real) if "Llama 2" in n else n for n in FOUND])
def found(request: pytest.FixtureRequest) -> Found:
    return FOUND[request.param]


@pytest.fixture(scope="module")
def all_served(found: Found, tmp_path_factory: pytest.TempPathFactory) -> list[Served]:
    folder = tmp_path_factory.mktemp("served")
    model = found.write(folder / "model")
    return [serve(model, name, folder / name) for name in found.templates]


TRICKY = [
    "hi",
    " ",
    "  ",
    "\n",
    "\n\n",
    "\t",
    "▁",
    "é",
    "你好",
    "🙂👩‍🚀",
    "[INST]",
    " [/INST]",
    "|>",
    "```\n",
]
CONTROL = ["<s>", "</s>", "<unk>", *(token for t in TEMPLATES.values() for token in t.special_tokens)]
words = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.sampled_from(TRICKY)
texts = (
    st.lists(words, max_size=4).map("".join).filter(lambda text: not any(word in text for word in CONTROL))
)
calls = st.builds(lambda text: Call.of("get_weather", {"city": text, "days": [1, None]}), texts)


@st.composite
def conversations(draw: st.DrawFn) -> Conversation:
    messages = [Message("system", draw(texts))] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 2))):
        messages.append(Message("user", draw(texts)))
        for _ in range(draw(st.integers(0, 2))):
            messages.append(Message("assistant", draw(texts), calls=(draw(calls),)))
            messages.append(Message("observation", draw(texts), name="get_weather"))
        messages.append(Message("assistant", draw(texts)))
    tools = draw(st.sampled_from([(), ('{"name": "get_weather", "parameters": {}}',)]))
    return Conversation("t", tuple(messages), tools)


@settings(deadline=None, max_examples=30)
@given(conversation=conversations(), generate=st.booleans())
def test_transformers_gives_the_ids_of_training(
    conversation: Conversation, generate: bool, all_served: list[Served]
) -> None:
    for served in all_served:
        segments = served.template.render(conversation, served.encoder.control, generate=generate)
        assert served.ids(served.text(segments)) == served.encoder.ids(segments), served.template.name


def test_a_text_alone(found: Found, all_served: list[Served]) -> None:
    """It has a space in front where SentencePiece puts one, and decoding takes it off again."""
    space = "" if isinstance(found.tokenizer, Tokenizer) else " "
    for served in all_served:
        for text in ("hi", "two  spaces", "a\n\nb", "你好"):
            expected = served.encoder.ids([joined(markup(space + text))])
            assert served.ids(text) == expected
            assert served.tokenizer.decode(expected) == text


def test_a_sentencepiece_model_alone(found: Found, all_served: list[Served]) -> None:
    """It is converted, and still there for readers of its own."""
    alone = found.tokenizer == REAL and not found.hub
    for served in all_served:
        assert (served.out / "tokenizer.model").exists() == alone
        if alone:
            assert (served.out / "tokenizer.model").read_bytes() == (REAL / "tokenizer.model").read_bytes()
            assert served.tokenizer("hi").input_ids == [1, 7251]  # <s>, ▁hi


def test_special_tokens_that_took_white_space_no_longer_do(tmp_path: Path) -> None:
    tokenizer = bytes_tokenizer(None)
    state = json.loads(tokenizer.to_str())
    token = {"lstrip": True, "rstrip": True, "single_word": False, "normalized": True, "special": True}
    state["added_tokens"].append(token | {"id": tokenizer.get_vocab_size(), "content": "<|user|>"})
    served = serve_one(Found(Tokenizer.from_str(json.dumps(state))), "chatglm3", tmp_path)
    conversation = Conversation("t", (Message("user", " hi "), Message("assistant", " yes ")))
    segments = served.template.render(conversation, served.encoder.control)
    assert served.ids(served.text(segments)) == served.encoder.ids(segments)


def test_truncation_and_padding_are_not_served(tmp_path: Path) -> None:
    tokenizer = bytes_tokenizer(None)
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=64)
    served = serve_one(Found(tokenizer), "llama2", tmp_path)
    state = json.loads((served.out / "tokenizer.json").read_text())
    assert (state["truncation"], state["padding"]) == (None, None)


def test_control_ids_are_those_of_training(all_served: list[Served]) -> None:
    for served in all_served:
        control = served.encoder.control
        named = served.tokenizer.convert_tokens_to_ids(list(control.special))
        assert named == list(control.special.values())
        assert (served.tokenizer.bos_token_id, served.tokenizer.eos_token_id) == (control.bos, control.eos)
