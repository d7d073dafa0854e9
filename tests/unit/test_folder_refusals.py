"""A folder's chat template that hides what it should show is refused; what it shows is found where it stands."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from found_tokenizers import DEMO, Found, bytes_tokenizer
from test_folder_template import ADDED, CHATML_CHAT, LLAMA2_CHAT, OK, USER, folder, opened, talk
from tokenizers import AddedToken, Tokenizer

from tokenization.conversation import Call, Conversation, Message
from tokenization.encoder import Encoder
from tokenization.invariants import check_sample
from tokenization.sample import SpanKind
from tokenization.segments import RenderError
from tokenization.templates import open_template
from tokenization.templates.chatml import CHATML

TURNS = """{%- for m in messages -%}
{%- if (m.role == 'user') != (loop.index0 % 2 == 0) -%}{{ raise_exception('roles take turns') }}{%- endif -%}
{%- if m.role == 'user' -%}{{ '<s>[ASK] ' ~ m.content.strip() ~ ' [/ASK]' }}
{%- else -%}{{ ' ' ~ m.content.strip() ~ ' </s>' }}{%- endif -%}
{%- endfor -%}"""
CUTS = """{% for m in messages %}<s>{{ m.content if m.role == 'assistant' else m.content[:1] }}</s>{% endfor -%}
{% if add_generation_prompt %}<s>{% endif %}"""
STRADDLES = """{% for m in messages -%}
<s>{{ m.role }}: {{ m.content }}{% if m.role == 'assistant' %}</s>{% endif %}{% endfor -%}
{% if add_generation_prompt %}<s>assistant: {% endif %}"""

TALK = (Message("user", "hi there"), Message("assistant", "ok"))
CALL = Call.of("find", {"city": "Oslo"})


def demo_folder(path: Path, chat_template: str, *special: str) -> Path:
    """The demo's tokenizer with a chat template and more control tokens."""
    path.mkdir()
    for file in DEMO.iterdir():
        shutil.copyfile(file, path / file.name)
    tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    tokenizer.save(str(path / "tokenizer.json"))
    (path / "chat_template.jinja").write_text(chat_template, encoding="utf-8")
    return path


def shown(path: Path, conversation: Conversation, kinds: tuple[SpanKind, ...]) -> str:
    """The sample's text with the tokens of some kinds in ⟨ ⟩."""
    template, encoder = open_template("model", path)
    sample = encoder.encode(template.render(conversation, encoder.control), "s", "t")
    check_sample(sample, conversation)
    text = ""
    for piece in encoder.pieces(sample.tokens):
        text += f"⟨{piece.text}⟩" if sample.kinds[piece.start] in kinds else piece.text
    return text.replace("⟩⟨", "")


def test_messages_are_found_where_they_stand(tmp_path: Path) -> None:
    """Not where the same characters stand before: in a role's line, or in the call that they answer."""
    path = demo_folder(tmp_path / "m", CHATML.chat_template, *CHATML.special_tokens)
    conversation = Conversation(
        "t",
        (
            Message("user", "user", True),
            Message("assistant", calls=(CALL,)),
            Message("observation", "Oslo", True),
            Message("assistant", 'It is "Oslo".'),
        ),
        ('{"name": "find"}',),
    )
    given = shown(path, conversation, (SpanKind.USER, SpanKind.OBSERVATION))
    assert given.count("⟨") == 2
    assert "<|im_start|>user\n⟨user⟩<|im_end|>" in given
    assert "<tool_response>\n⟨Oslo⟩\n</tool_response>" in given
    assert '⟨It is "Oslo".⟩<|im_end|>' in shown(path, conversation, (SpanKind.TEXT,))
    ours = Encoder.from_folder(DEMO, CHATML.special_tokens)
    known = ours.encode(CHATML.render(conversation, ours.control), "s", "t")
    template, encoder = open_template("model", path)
    made = encoder.encode(template.render(conversation, encoder.control), "s", "t")
    assert made.tokens.tolist() == known.tokens.tolist()
    assert made.trained.tolist() == known.trained.tolist()


@pytest.mark.parametrize(
    ("chat_template", "conversation", "told"),
    [
        (STRADDLES, Conversation("t", TALK), "a token reaches from the prompt"),
        (CUTS, Conversation("t", TALK), "does not write out message 1"),
        (TURNS, Conversation("t", TALK, ('{"name": "find"}',)), "does not write out the tools"),
        (
            TURNS,
            Conversation("t", (TALK[0], Message("assistant", "I look.", calls=(CALL,)))),
            "does not write out 'find' of message 2",
        ),
        (
            TURNS,
            Conversation("t", (*TALK, Message("observation", "5"), TALK[1])),
            "refuses the conversation: roles take turns",
        ),
        (
            TURNS,
            Conversation("t", (*TALK, Message("assistant", "no", False))),
            "messages of one turn have different",
        ),
    ],
)
def test_what_it_hides_is_refused(
    chat_template: str, conversation: Conversation, told: str, tmp_path: Path
) -> None:
    template, encoder = open_template("model", demo_folder(tmp_path / "m", chat_template))
    with pytest.raises(RenderError, match=told):
        encoder.encode(template.render(conversation, encoder.control), "s", "t")


# Each kind of template that cannot be used, and its words.


NO_STOP = "{%- for m in messages -%}{{- m.content -}}{%- endfor -%}"
OTHERWISE = CHATML_CHAT.replace("assistant\n' if", "assistant:\n' if")
DROPS = CHATML_CHAT.replace(
    "~ message.content", "~ (message.content if loop.last else message.content.split('=')[-1])"
)
SHOUTS = CHATML_CHAT.replace(
    "message.content", "(message.content | upper if message.role == 'user' else message.content)"
)
COUNTS = CHATML_CHAT.replace("message.content", "message.content ~ message.content | length")
LOOKS = Message("assistant", "look", calls=(Call.of("find", {}),))
REFUSED: list[tuple[str, Conversation, str]] = [
    (
        LLAMA2_CHAT,
        talk(USER, LOOKS, Message("observation", "5"), OK),
        "refuses the conversation: user and assistant must alternate: user/assistant/user/...$",
    ),
    (
        DROPS,
        talk(USER, Message("assistant", "1+1=2"), USER, OK),
        "writes message 2 in training otherwise than it is prompted for; use another",
    ),
    (
        CHATML_CHAT,
        talk(USER, OK, Message("assistant", "no", False)),
        "messages of one turn have different 'loss', .* give them one, or use another data.template",
    ),
    (CHATML_CHAT, talk(USER, LOOKS), "does not write out 'find' of message 2; use another data.template"),
    (CHATML_CHAT, talk(USER, OK, tools=('{"name": "f"}',)), "does not write out the tools; use another"),
    (SHOUTS, talk(USER, OK), "does not write out message 1"),
    (
        COUNTS,
        talk(Message("user", "hi there", True), OK),
        "hides where a message stands that 'loss' asks for",
    ),
]


@pytest.mark.parametrize(("chat_template", "conversation", "words"), REFUSED)
def test_what_it_cannot_show_is_refused(
    chat_template: str, conversation: Conversation, words: str, tmp_path: Path
) -> None:
    one = opened(folder(tmp_path, chat_template, ADDED["chatml"][1]))
    with pytest.raises(RenderError, match=words) as told:
        one.sample(conversation)
    assert str(told.value).count("\n") == 0


def test_a_token_across_the_prompts_end_is_refused(tmp_path: Path) -> None:
    """Line ends merge in this tokenizer: the one that ends the prompt and the one that begins the answer."""
    model = Found(bytes_tokenizer(None)).write(tmp_path / "model")
    one = opened(folder(tmp_path / "own", *ADDED["chatml"], tokenizer=model))
    assert one.sample(talk(USER, OK)).targets == 3
    with pytest.raises(RenderError, match="a token reaches from the prompt into the assistant's turn"):
        one.sample(talk(USER, Message("assistant", "\n\n\nok")))


@pytest.mark.parametrize(
    ("chat_template", "words"),
    [
        (None, "has no chat template"),
        ({"default": CHATML_CHAT, "tool_use": CHATML_CHAT}, "has 2 chat templates"),
    ],
)
def test_folders_without_one_template(chat_template: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words + ".*use data.template=llama2, chatglm3 or chatml"):
        open_template("model", folder(tmp_path, chat_template))


@pytest.mark.parametrize(
    ("chat_template", "words"),
    [
        (NO_STOP, "writes no control token after the assistant's turn, .* never learn to stop; use another"),
        (OTHERWISE, "writes the assistant's turn in training otherwise than it is prompted for; use another"),
        ("{{- raise_exception('no') -}}", "refuses the conversation: no$"),
        ("{%- for m in -%}", "refuses the conversation: "),
    ],
)
def test_templates_that_cannot_be_learned_from(chat_template: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        open_template("model", folder(tmp_path, chat_template))
