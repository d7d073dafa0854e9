"""Whole conversations token by token for each template, and ChatGLM3's own rule over a whole file.

The tables were read line by line against the format and the mask rule when they were written.

A line is a kind, `+` where its tokens are targets and `-` where not, and SentencePiece's pieces or control tokens.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest

from tokenization.builder import SampleBuilder
from tokenization.conversation import INTERPRETER, Call, Conversation, Message
from tokenization.encoder import Encoder
from tokenization.errors import Where
from tokenization.sample import SpanKind
from tokenization.templates import TEMPLATES
from tokenization.templates.tools import AFTER, BEFORE

TOKENIZER = Path(__file__).parents[2].parent / "shared" / "data" / "llama2_tokenizer"
pytestmark = pytest.mark.skipif(
    not TOKENIZER.is_dir(), reason="no real data beside the repository (../shared/data)"
)

CALLS = (Call.of("查询天气", {"city": "北京"}), Call.of("math.hypot", {"x": 3}))
TALKS = {
    # system and tools; Chinese; text then two calls in a row, in two messages of one turn; results, one of them
    # learned; an answer that is not learned; the last message from the user
    "calls": Conversation(
        "t",
        (
            Message("system", "S"),
            Message("user", "天气?"),
            Message("assistant", "ok"),
            Message("assistant", calls=CALLS, loss=True),
            Message("observation", "5", name="查询天气"),
            Message("observation", "6", True, name="math.hypot"),
            Message("assistant", "done", False),
            Message("user", "bye"),
        ),
        ('{"name": "f"}',),
    ),
    # the interpreter's code and its result; an answer of nothing
    "code": Conversation(
        "t",
        (
            Message("user", "1+1"),
            Message("assistant", calls=(Call.of(INTERPRETER, {"code": "print(2)"}),)),
            Message("observation", "2", name=INTERPRETER),
            Message("assistant", ""),
        ),
    ),
}
EXPECTED = {
    ("llama2", "calls"): """
        CONTROL - <s> ▁[ INST ] ▁<< SY S >> <0x0A>
        SYSTEM - S <0x0A> <0x0A> {tagged}
        CONTROL - <0x0A> < </ SY S >> <0x0A> <0x0A>
        USER - 天 <0xE6> <0xB0> <0x94> ?
        CONTROL - ▁[ / INST ]
        TEXT + ▁ok
        CONTROL + <0x0A> < tool _ call > <0x0A> {" name ": ▁"
        CALL_NAME + 查 <0xE8> <0xAF> <0xA2> 天 <0xE6> <0xB0> <0x94>
        CONTROL + ", ▁" arguments ":
        ARGUMENTS + ▁{" city ": ▁" 北 京 " }}
        CONTROL + <0x0A> </ tool _ call > <0x0A> < tool _ call > <0x0A> {" name ": ▁"
        CALL_NAME + math . h yp ot
        CONTROL + ", ▁" arguments ":
        ARGUMENTS + ▁{" x ": ▁ 3 }}
        CONTROL + <0x0A> </ tool _ call > ▁
        STOP + </s>
        CONTROL - <s> ▁[ INST ] ▁< tool _ response > <0x0A>
        OBSERVATION - 5
        CONTROL - <0x0A> </ tool _ response > <0x0A> < tool _ response > <0x0A>
        OBSERVATION + 6
        CONTROL - <0x0A> </ tool _ response > ▁[ / INST ]
        TEXT - ▁done ▁
        STOP - </s>
        CONTROL - <s> ▁[ INST ]
        USER - ▁by e
        CONTROL - ▁[ / INST ]
    """,
    ("llama2", "code"): """
        CONTROL - <s> ▁[ INST ] ▁
        USER - 1 + 1
        CONTROL - ▁[ / INST ]
        CONTROL + ▁< tool _ call > <0x0A> {" name ": ▁"
        CALL_NAME + inter pre ter
        CONTROL + ", ▁" arguments ":
        CODE + ▁{" code ": ▁" print ( 2 )" }}
        CONTROL + <0x0A> </ tool _ call > ▁
        STOP + </s>
        CONTROL - <s> ▁[ INST ] ▁< tool _ response > <0x0A>
        OBSERVATION - 2
        CONTROL - <0x0A> </ tool _ response > ▁[ / INST ]
        TEXT + ▁▁
        STOP + </s>
    """,
    ("chatml", "calls"): """
        CONTROL - <s> <|im_start|> system <0x0A>
        SYSTEM - S <0x0A> <0x0A> {tagged}
        CONTROL - <|im_end|> <0x0A> <|im_start|> user <0x0A>
        USER - 天 <0xE6> <0xB0> <0x94> ?
        CONTROL - <|im_end|> <0x0A> <|im_start|> ass istant <0x0A>
        TEXT + ok
        CONTROL + <0x0A> < tool _ call > <0x0A> {" name ": ▁"
        CALL_NAME + 查 <0xE8> <0xAF> <0xA2> 天 <0xE6> <0xB0> <0x94>
        CONTROL + ", ▁" arguments ":
        ARGUMENTS + ▁{" city ": ▁" 北 京 " }}
        CONTROL + <0x0A> </ tool _ call > <0x0A> < tool _ call > <0x0A> {" name ": ▁"
        CALL_NAME + math . h yp ot
        CONTROL + ", ▁" arguments ":
        ARGUMENTS + ▁{" x ": ▁ 3 }}
        CONTROL + <0x0A> </ tool _ call >
        STOP + <|im_end|>
        CONTROL - <0x0A> <|im_start|> user <0x0A> < tool _ response > <0x0A>
        OBSERVATION - 5
        CONTROL - <0x0A> </ tool _ response > <0x0A> < tool _ response > <0x0A>
        OBSERVATION + 6
        CONTROL - <0x0A> </ tool _ response > <|im_end|> <0x0A> <|im_start|> ass istant <0x0A>
        TEXT - done
        STOP - <|im_end|>
        CONTROL - <0x0A> <|im_start|> user <0x0A>
        USER - bye
        CONTROL - <|im_end|> <0x0A>
    """,
    ("chatml", "code"): """
        CONTROL - <s> <|im_start|> user <0x0A>
        USER - 1 + 1
        CONTROL - <|im_end|> <0x0A> <|im_start|> ass istant <0x0A>
        CONTROL + < tool _ call > <0x0A> {" name ": ▁"
        CALL_NAME + inter pre ter
        CONTROL + ", ▁" arguments ":
        CODE + ▁{" code ": ▁" print ( 2 )" }}
        CONTROL + <0x0A> </ tool _ call >
        STOP + <|im_end|>
        CONTROL - <0x0A> <|im_start|> user <0x0A> < tool _ response > <0x0A>
        OBSERVATION - 2
        CONTROL - <0x0A> </ tool _ response > <|im_end|> <0x0A> <|im_start|> ass istant <0x0A>
        STOP + <|im_end|>
        CONTROL - <0x0A>
    """,
    ("chatglm3", "calls"): """
        CONTROL - <s> <|system|> ▁ <0x0A>
        SYSTEM - ▁S <0x0A> <0x0A> {listed}
        CONTROL - <|user|> ▁ <0x0A> ▁
        USER - 天 <0xE6> <0xB0> <0x94> ?
        CONTROL - <|assistant|>
        CONTROL + ▁ <0x0A>
        TEXT + ▁ok
        CONTROL + <|assistant|> ▁
        CALL_NAME + 查 <0xE8> <0xAF> <0xA2> 天 <0xE6> <0xB0> <0x94>
        CONTROL + <0x0A> ▁``` python <0x0A> tool _ call (
        ARGUMENTS + city =' 北 京 ')
        CONTROL + <0x0A> ``` <|assistant|>
        CALL_NAME + ▁math . h yp ot
        CONTROL + <0x0A> ▁``` python <0x0A> tool _ call (
        ARGUMENTS + x = 3
        CONTROL + ) <0x0A> ```
        STOP + <|observation|>
        CONTROL - ▁ <0x0A> ▁
        OBSERVATION - 5
        CONTROL - <|observation|> ▁ <0x0A> ▁
        OBSERVATION + 6
        CONTROL - <|assistant|> ▁ <0x0A>
        TEXT - ▁done
        STOP - <|user|>
        CONTROL - ▁ <0x0A>
        USER - ▁by e
        CONTROL - </s>
    """,
    ("chatglm3", "code"): """
        CONTROL - <s> <|user|> ▁ <0x0A> ▁
        USER - 1 + 1
        CONTROL - <|assistant|>
        CALL_NAME + ▁interpreter
        CONTROL + <0x0A> ▁``` python <0x0A>
        CODE + print ( 2 )
        CONTROL + <0x0A> ```
        STOP + <|observation|>
        CONTROL - ▁ <0x0A> ▁``` result <0x0A>
        OBSERVATION - 2
        CONTROL - <0x0A> ``` <|assistant|>
        CONTROL + ▁ <0x0A>
        STOP + </s>
    """,
}
TEXTS = {
    "{tagged}": f'{BEFORE}{{"type": "function", "function": {{"name": "f"}}}}{AFTER}',
    "{listed}": "Answer the following questions as best as you can. You have access to the following tools:\n"
    '[{"name": "f"}]',
}


@cache
def encoder(template: str) -> Encoder:
    return Encoder.from_folder(TOKENIZER, TEMPLATES[template].special_tokens)


@pytest.mark.parametrize(("template", "talk"), EXPECTED)
def test_token_by_token(template: str, talk: str) -> None:
    from sentencepiece import SentencePieceProcessor

    pieces = SentencePieceProcessor(model_file=str(TOKENIZER / "tokenizer.model"))
    special = {token: 32000 + place for place, token in enumerate(TEMPLATES[template].special_tokens)}
    expected: list[tuple[int, str, bool]] = []
    for line in EXPECTED[template, talk].split("\n"):
        if not line.strip():
            continue
        kind, trained, *words = line.split()
        for word in words:
            if word in TEXTS:  # they stand behind a line end, where no space is put in front
                ids = pieces.encode("\n" + TEXTS[word])[2:]
            else:
                ids = [special[word] if word in special else pieces.piece_to_id(word)]
            expected += [(id, kind, trained == "+") for id in ids]
    one = encoder(template)
    made = one.encode(TEMPLATES[template].render(TALKS[talk], one.control), "s", "t")
    columns = zip(made.tokens.tolist(), made.kinds.tolist(), made.trained.tolist(), strict=True)
    assert [(id, SpanKind(kind).name, trained) for id, kind, trained in columns] == expected


def test_chatglm3_by_the_references_own_rule() -> None:
    """The reference flags each token whose *next* prediction is trained, and takes labels one place later; each of
    metadata and content is encoded by itself."""
    from sentencepiece import SentencePieceProcessor

    pieces = SentencePieceProcessor(model_file=str(TOKENIZER / "tokenizer.model"))
    roles = {role: 32000 + place for place, role in enumerate(("system", "user", "assistant", "observation"))}
    file = TOKENIZER.parent / "conversations" / "glaive_toolcall_en.json"
    builder = SampleBuilder(encoder("chatglm3"), TEMPLATES["chatglm3"])
    for row in json.loads(file.read_text(encoding="utf-8")):
        tools = json.loads(row["tools"])
        said = [
            ("system", "", TEXTS["{listed}"].split("\n")[0] + "\n" + json.dumps(tools, ensure_ascii=False))
        ]
        said = said if tools else []
        for message in row["conversations"]:
            role, metadata, content = NAMES[message["from"]], "", message["value"]
            if message["from"] == "function_call":
                call = json.loads(content)
                metadata = call["name"]
                arguments = ", ".join(f"{key}={value!r}" for key, value in call["arguments"].items())
                if "from" in call["arguments"]:  # no name in Python, where the reference's block is no Python
                    arguments = f"**{call['arguments']}"
                content = f"```python\ntool_call({arguments})\n```"
            said.append((role, metadata, content))
        ids, flags = [1], [False]
        for role, metadata, content in said:
            written = [roles[role], *pieces.encode(f"{metadata}\n"), *pieces.encode(content)]
            ids += written
            flags += [role == "assistant"] * len(written)
        ids.append(2)
        made = builder.build(row, source="s", format="auto", where=Where("rows.json", 1), default_id="0")
        assert made.tokens.tolist() == ids
        assert made.trained.tolist() == [False, *flags]


NAMES = {"human": "user", "gpt": "assistant", "function_call": "assistant", "observation": "observation"}
