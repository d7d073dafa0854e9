"""A folder's chat template that hides what it should show is refused; what it shows is found where it stands."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from found_tokenizers import DEMO
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
OTHERWISE = "{% for m in messages %}<s>{{ m.content }}</s>{% endfor %}{{ '!' if add_generation_prompt }}"

TALK = (Message("user", "hi there"), Message("assistant", "ok"))
CALL = Call.of("find", {"city": "Oslo"})


def folder(path: Path, chat_template: str, *special: str) -> Path:
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
    path = folder(tmp_path / "m", CHATML.chat_template, *CHATML.special_tokens)
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
        (OTHERWISE, Conversation("t", TALK), "in training otherwise than it is prompted for"),
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
    template, encoder = open_template("model", folder(tmp_path / "m", chat_template))
    with pytest.raises(RenderError, match=told):
        encoder.encode(template.render(conversation, encoder.control), "s", "t")


def test_folders_without_one_template_that_stops(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no chat template, one is needed; use data\.template=llama2"):
        open_template("model", DEMO)
    endless = folder(tmp_path / "a", "{% for m in messages %}{{ m.content }}{% endfor %}")
    with pytest.raises(ValueError, match="writes no control token after the assistant's turn"):
        open_template("model", endless)
    several = folder(tmp_path / "b", "")
    (several / "chat_template.jinja").unlink()
    file = several / "tokenizer_config.json"
    named = [{"name": name, "template": TURNS} for name in ("default", "tool_use")]
    file.write_text(json.dumps(json.loads(file.read_text()) | {"chat_template": named}))
    with pytest.raises(ValueError, match="has 2 chat templates, one is needed"):
        open_template("model", several)
