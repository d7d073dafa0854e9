"""Previews: the JSON that scripts read, and the text and page that people read."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from tokenization.conversation import Conversation, Message
from tokenization.encoder import Encoder
from tokenization.preview import row_to_json, to_html, to_json, to_terminal
from tokenization.sample import SpanKind, TokenizedSample
from tokenization.templates.llama2 import LLAMA2


def byte_tokenizer() -> Tokenizer:
    """Llama's kind of tokenizer with no pieces but single bytes (byte b is b + 3) and ▁ (259)."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁"]
    vocab = {piece: id for id, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocab, [], unk_token="<unk>", byte_fallback=True))
    tokenizer.add_special_tokens(pieces[:3])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    return tokenizer


ENCODER = Encoder(byte_tokenizer())


def sample(*messages: Message, id: str = "t") -> TokenizedSample:
    conversation = Conversation(id, messages)
    return ENCODER.encode(LLAMA2.render(conversation, ENCODER.control), "talk", id)


SMALL = TokenizedSample(
    source="talk",
    id="7",
    tokens=np.array([1, 107, 2], np.int32),
    trained=np.array([False, True, True]),
    kinds=np.array([SpanKind.CONTROL, SpanKind.TEXT, SpanKind.STOP], np.uint8),
)
TALK = sample(
    Message("user", "a 🙂\nb"), Message("assistant", "yes 你\nno"), Message("user", "c", True), id="9"
)


on_any_machine = settings(deadline=None)  # time depends on what else runs


def test_json() -> None:
    assert to_json(SMALL) == '{"source": "talk", "id": "7", "tokens": [1, 107, 2], "labels": [-100, 107, 2]}'


def test_row_json() -> None:
    arrays = [np.array(values, np.int32) for values in ([1, 5, 0], [-100, 5, -100], [0, 1, 0])]
    line = row_to_json(3, [("talk", "7"), ("os", "a:b")], *arrays)
    assert line == (
        '{"row": 3, "samples": ["talk:7", "os:a:b"], "tokens": [1, 5, 0], "labels": [-100, 5, -100], '
        '"positions": [0, 1, 0]}'
    )


def test_terminal_without_colour_marks_targets_with_brackets() -> None:
    assert to_terminal(TALK, ENCODER, colour=False) == (
        f"talk:9  tokens {len(TALK)}  targets {TALK.trained.sum()}  turns 1\n"
        "<s> [INST] a 🙂\nb [/INST]⟦ yes 你\nno ⟧⟦</s>⟧<s> [INST] ⟦c⟧ [/INST]\n"
    )


def test_terminal_with_colour_says_the_same() -> None:
    coloured = to_terminal(TALK, ENCODER, colour=True)
    plain = to_terminal(TALK, ENCODER, colour=False)
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == re.sub("[⟦⟧]", "", plain)
    for target in ("\x1b[32m yes 你\x1b[0m\n\x1b[32mno \x1b[0m", "\x1b[1;31m</s>\x1b[0m", "\x1b[33mc\x1b[0m"):
        assert target in coloured
    for line in coloured.splitlines():
        assert not re.search(r"\x1b\[0m[^\x1b]+", line), "text without a colour"
        assert line.endswith("\x1b[0m")


def test_data_cannot_steer_the_terminal() -> None:
    made = sample(Message("user", "\x1b[2J\x07 \t\r\x9b1m"), Message("assistant", "\x00"), id="\x1b]0;x\x07")
    shown = to_terminal(made, ENCODER, colour=False)
    assert not set(shown) & {*map(chr, range(0x20)), *map(chr, range(0x7F, 0xA0))} - {"\n", "\t"}
    assert r"[INST] \x1b[2J\x07 " in shown
    assert shown.startswith(r"talk:\x1b]0;x\x07  tokens")


class Page(HTMLParser):
    """The page's tags and attributes, and each token's class and title."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.tokens: list[tuple[str | None, str | None]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.add(tag)
        self.attributes |= found.keys()
        if "title" in found:
            self.tokens.append((found["class"], found["title"]))


def test_html_shows_every_token_on_the_colour_of_its_kind() -> None:
    assert Page(to_html([SMALL], ENCODER)).tokens == [
        ("control", "control 1"),
        ("target text", "text 107"),
        ("target stop", "stop 2"),
    ]
    smile = " ".join(str(byte + 3) for byte in "🙂".encode())
    assert f'<span class="user" title="user {smile}">🙂</span>' in to_html([TALK], ENCODER)


def test_html_escapes_data_and_needs_nothing_else() -> None:
    attack = '<script>alert("x")</script><img src=x onerror=y>&amp;'
    made = sample(Message("user", attack), Message("assistant", attack), id=attack)
    html = to_html([made, made], ENCODER)
    page = Page(html)
    assert page.tags == {"html", "head", "meta", "title", "style", "body", "p", "h2", "pre", "span"}
    assert page.attributes == {"lang", "charset", "class", "title"}
    assert "&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt;" in html
    assert "http" not in html
    assert html.count("<h2>") == 2


@pytest.mark.parametrize("colour", [True, False])
@on_any_machine
@given(content=st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="▁⟦⟧"), max_size=12))
def test_any_text_is_shown_whole(colour: bool, content: str) -> None:
    made = sample(Message("user", content), Message("assistant", content))
    shown = re.sub(r"\x1b\[[0-9;]*m", "", to_terminal(made, ENCODER, colour))
    said = content.strip()
    assert re.sub("[⟦⟧]", "", shown).split("\n", 1)[1] == (
        f"<s> [INST] {said} [/INST]" + (f" {said} " if said else "  ") + "</s>\n"
    )
