"""The model folder's own chat template: the ids that transformers gives, targets where a turn is generated."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from found_tokenizers import DEMO, REAL, Found, serve
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from tokenization.conversation import Call, Conversation, Message, canonical, runs
from tokenization.encoder import Encoder
from tokenization.invariants import check_sample
from tokenization.sample import SpanKind, TokenizedSample
from tokenization.segments import Control
from tokenization.templates import open_template, prompt
from tokenization.templates.chatml import CHATML
from tokenization.templates.messages import chat_messages, chat_tools
from tokenization.templates.template import Template

real = pytest.mark.skipif(not REAL.is_dir(), reason="no real data beside the repository (../shared/data)")

LLAMA2_CHAT = """
{%- set headed = messages[0].role == 'system' -%}
{%- for message in (messages[1:] if headed else messages) -%}
  {%- if message.role != ('assistant' if loop.index0 % 2 else 'user') -%}
    {{- raise_exception('user and assistant must alternate:\n user/assistant/user/...') -}}
  {%- endif -%}
  {%- set content = '<<SYS>>\n' ~ messages[0].content ~ '\n<</SYS>>\n\n' ~ message.content
      if headed and loop.first else message.content -%}
  {%- if message.role == 'user' -%}
    {{- bos_token ~ '[INST] ' ~ content | trim ~ ' [/INST]' -}}
  {%- else -%}
    {{- ' ' ~ content | trim ~ ' ' ~ eos_token -}}
  {%- endif -%}
{%- endfor -%}
"""
"""As the Llama 2 chat models publish it."""
CHATML_CHAT = """
{%- for message in messages -%}
  {{- '<|im_start|>' ~ message.role ~ '\n' ~ message.content ~ '<|im_end|>' ~ '\n' -}}
{%- endfor -%}
{{- '<|im_start|>assistant\n' if add_generation_prompt else '' -}}
"""
HEADERS = """
{%- macro header(role) -%}
  {{- '<|start_header_id|>' ~ role ~ '<|end_header_id|>\n\n' -}}
{%- endmacro -%}
{{- bos_token -}}
{%- if tools -%}
  {{- header('system') ~ 'Tools:\n' ~ (tools | tojson) ~ '<|eot_id|>' -}}
{%- endif -%}
{%- for message in messages -%}
  {{- header('ipython' if message.role == 'tool' else message.role) ~ message.content | trim -}}
  {%- for call in message.tool_calls or [] -%}
    {{- '{"name": ' ~ (call.function.name | tojson) ~ ', "parameters": ' -}}
    {{- (call.function.arguments | tojson) ~ '}' -}}
  {%- endfor -%}
  {{- '<|eot_id|>' -}}
{%- endfor -%}
{{- header('assistant') if add_generation_prompt else '' -}}
"""
"""As the Llama 3 models: a header before each message, and a token of its own after it."""
ADDED = {
    "llama2": (LLAMA2_CHAT, ()),
    "chatml": (CHATML_CHAT, ("<|im_start|>", "<|im_end|>")),
    "headers": (HEADERS, ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")),
}


@dataclass(frozen=True)
class Opened:
    """A folder as this package and as transformers reads it."""

    template: Template
    encoder: Encoder
    tokenizer: Any

    def __repr__(self) -> str:
        return self.tokenizer.name_or_path

    def sample(self, conversation: Conversation) -> TokenizedSample:
        made = self.encoder.encode(self.template.render(conversation, self.encoder.control), "s", "t")
        check_sample(made, conversation)
        return made

    def chat(
        self, messages: Sequence[Message], tools: Sequence[str] = (), generate: bool = False
    ) -> list[int]:
        return self.tokenizer.apply_chat_template(
            chat_messages(messages), tools=chat_tools(tools), add_generation_prompt=generate, return_dict=True
        )["input_ids"]

    def ids(self, *tokens: str) -> list[int]:
        return self.tokenizer.convert_tokens_to_ids(list(tokens))


@cache
def read(path: Path) -> Any:
    return AutoTokenizer.from_pretrained(path)


def folder(path: Path, chat_template: Any, added: Sequence[str] = (), tokenizer: Path = DEMO) -> Path:
    loaded = deepcopy(read(tokenizer))
    loaded.add_special_tokens({"additional_special_tokens": list(added)})
    loaded.chat_template = chat_template
    loaded.save_pretrained(path)
    return path


def opened(path: Path) -> Opened:
    template, encoder = open_template("model", path)
    return Opened(template, encoder, AutoTokenizer.from_pretrained(path))


@pytest.fixture(scope="module", params=["demo", pytest.param("llama2", marks=real)])
def every(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Opened]:
    found = {"demo": DEMO, "llama2": REAL}[request.param]
    at = tmp_path_factory.mktemp("folders")
    return {name: opened(folder(at / name, *made, tokenizer=found)) for name, made in ADDED.items()}


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Opened]:
    at = tmp_path_factory.mktemp("folders")
    return {name: opened(folder(at / name, *made)) for name, made in ADDED.items()}


def talk(*messages: Message, tools: tuple[str, ...] = ()) -> Conversation:
    return Conversation("t", messages, tools)


USER, OK = Message("user", "hi"), Message("assistant", "ok")


# By hand.


def marked(one: Opened, conversation: Conversation) -> str:
    """The sample as text, its targets between corner marks."""
    made = one.sample(conversation)
    text = ""
    for trained, stretch in groupby(
        zip(made.tokens.tolist(), made.trained.tolist(), strict=True), lambda x: x[1]
    ):
        words = "".join(one.encoder.texts([id for id, _ in stretch]))
        text += f"⟦{words}⟧" if trained else words
    return text


TALK = Conversation(
    "t", (Message("system", "S"), USER, OK, Message("user", "x"), Message("assistant", "no", False))
)
LEARNED = {
    "llama2": "<s>[INST] <<SYS>>\nS\n<</SYS>>\n\nhi [/INST]⟦ ok </s>⟧<s>[INST] x [/INST] no </s>",
    "chatml": "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n"
    "<|im_start|>assistant\n⟦ok<|im_end|>⟧\n<|im_start|>user\nx<|im_end|>\n"
    "<|im_start|>assistant\nno<|im_end|>\n",
    "headers": "<s><|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n⟦ok<|eot_id|>⟧"
    "<|start_header_id|>user<|end_header_id|>\n\nx<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nno<|eot_id|>",
}


@pytest.mark.parametrize("name", LEARNED)
def test_targets_are_turn_and_stop(name: str, demo: dict[str, Opened]) -> None:
    assert marked(demo[name], TALK) == LEARNED[name]


@pytest.mark.parametrize("name", LEARNED)
def test_a_message_asks_to_be_learned(name: str, demo: dict[str, Opened]) -> None:
    """Its own characters are, wherever else in the text they stand, and nothing around them."""
    said = {"system": "user", "user": "assistant", "assistant": "user"}
    messages = tuple(Message(m.role, said[m.role], m.role == "user") for m in TALK.messages)
    one = demo[name]
    made = one.sample(Conversation("t", messages))
    assert one.encoder.texts(made.tokens[made.trained].tolist())[0].replace(" ", "") == "assistantassistant"
    kinds = [SpanKind(kind).name for kind, _ in groupby(made.kinds.tolist()) if kind != SpanKind.CONTROL]
    assert kinds == ["SYSTEM", *["USER", "TEXT", "STOP"] * 2]


def test_the_stop_is_told_to_servers(demo: dict[str, Opened]) -> None:
    assert {name: one.template.stop_tokens for name, one in demo.items()} == {
        "llama2": (),
        "chatml": ("<|im_end|>",),
        "headers": ("<|eot_id|>",),
    }
    for name, one in demo.items():
        assert one.template.chat_template == ADDED[name][0]


def test_the_parts_of_a_call(demo: dict[str, Opened]) -> None:
    one = demo["headers"]
    call = Call.of("get_weather", {"city": "北京", "days": [1, None]})
    made = one.sample(
        talk(
            USER,
            Message("assistant", "look:", calls=(call,)),
            Message("observation", "5", True),
            OK,
            tools=('{"name": "get_weather"}',),
        )
    )

    def text(kind: SpanKind) -> str:
        return one.encoder.texts(made.tokens[made.kinds == kind].tolist())[0]

    assert "get_weather" in text(SpanKind.CALL_NAME)
    assert call.arguments in text(SpanKind.ARGUMENTS)
    assert made.trained[made.kinds == SpanKind.OBSERVATION].all()
    assert not made.trained[made.kinds == SpanKind.USER].any()
    assert "".join(one.encoder.texts(made.tokens[made.trained].tolist())) == (
        f'look:{{"name": "get_weather", "parameters": {call.arguments}}}<|eot_id|>5ok<|eot_id|>'
    )


# As transformers does it.

texts = st.lists(
    st.sampled_from(["hi", " ", "\n", "a b", "你好", "🙂", "{", "'", "[INST]", "<<SYS>>", "1."])
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=4),
    max_size=4,
).map("".join)
texts = texts.filter(lambda text: not any(word in text for word in ("<s>", "</s>", "<unk>", "<|")))
any_loss = st.sampled_from([None, True, False])


@st.composite
def conversations(draw: st.DrawFn, calls: bool = False) -> Conversation:
    """User and assistant in turns, the assistant with one or two messages; with `calls`, their results too."""
    messages = [Message("system", draw(texts))] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 3))):
        messages.append(Message("user", draw(texts)))
        loss = draw(any_loss)
        if calls and draw(st.booleans()):
            made = tuple(
                Call.of(name, {"x": draw(texts)}) for name in draw(st.sampled_from(["f", "天气", "fg"]))
            )
            messages.append(Message("assistant", draw(texts), loss, calls=made))
            messages += [Message("observation", draw(texts)) for _ in made]
        messages += [Message("assistant", draw(texts), loss) for _ in range(draw(st.integers(1, 2)))]
    if draw(st.booleans()):
        messages.append(Message("user", draw(texts)))
    tools = draw(st.sampled_from([(), ('{"name": "f"}',)])) if calls else ()
    return Conversation("t", tuple(messages), tools)


def one_a_turn(messages: Sequence[Message]) -> list[Message]:
    """The assistant's messages in a row as one, a line end between texts."""
    merged: list[Message] = []
    for run in runs(messages):
        if run[0].role == "assistant":
            content = "\n".join(m.content for m in run if m.content)
            merged.append(Message("assistant", content, run[0].loss, tuple(c for m in run for c in m.calls)))
        else:
            merged += run
    return merged


def expected(one: Opened, conversation: Conversation) -> tuple[list[int], list[bool]]:
    """Ids and targets by transformers alone: what a turn adds to its prompt, up to the last control token."""
    messages, tools = one_a_turn(conversation.messages), conversation.tools
    ids = one.chat(messages, tools)
    targets = [False] * len(ids)
    special = set(one.tokenizer.all_special_ids)
    for place, message in enumerate(messages):
        if message.role == "assistant" and message.trained:
            before = one.chat(messages[:place], tools, generate=True)
            turn = one.chat(messages[: place + 1], tools)
            assert turn[: len(before)] == before
            stop = max(at for at, id in enumerate(turn) if id in special)
            targets[len(before) : stop + 1] = [True] * (stop + 1 - len(before))
    return ids, targets


@pytest.mark.parametrize("name", ADDED)
@settings(deadline=None, max_examples=20)
@given(data=st.data())
def test_ids_and_targets_are_those_of_transformers(
    name: str, data: st.DataObject, every: dict[str, Opened]
) -> None:
    one = every[name]
    conversation = data.draw(conversations(calls=name == "headers"))
    for end in range(2 if conversation.system else 1, len(conversation.messages) + 1):
        beginning = Conversation("t", conversation.messages[:end], conversation.tools)
        if len(beginning.spoken) == len(one_a_turn(beginning.spoken)) or end == len(conversation.messages):
            made = one.sample(beginning)
            assert (made.tokens.tolist(), made.trained.tolist()) == expected(one, beginning)
        if beginning.messages[-1].role != "assistant":
            before = prompt(beginning.messages, one.encoder.control, one.template, beginning.tools)
            merged = one_a_turn(beginning.messages)
            assert one.encoder.ids(before) == one.chat(merged, beginning.tools, generate=True)


def test_our_own_template_in_a_folder(tmp_path: Path) -> None:
    """ChatML as this package writes it, read back as the folder's own: nothing of the sample differs but the kinds."""
    model = Found(DEMO).write(tmp_path / "model")
    ours = serve(model, "chatml", tmp_path / "out")
    one = opened(ours.out)
    call = Call.of("f", {"x": "天气"})
    conversation = talk(
        Message("system", "S"),
        USER,
        Message("assistant", "look", calls=(call, call)),
        Message("observation", "5"),
        Message("observation", "6"),
        OK,
        Message("user", "x"),
        tools=('{"name": "f"}',),
    )
    theirs = one.sample(conversation)
    made = ours.encoder.encode(CHATML.render(conversation, ours.encoder.control), "s", "t")
    assert theirs.tokens.tolist() == made.tokens.tolist()
    assert theirs.trained.tolist() == made.trained.tolist()
    assert one.template.parse(['look\n<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>']) == [
        "look",
        Call("f"),
    ]


@pytest.mark.parametrize("start", ["USER", " USER", "▁USER"])
def test_a_template_that_begins_with_text(start: str, tmp_path: Path) -> None:
    """The tokenizer puts a space before a text at the very beginning, and nowhere else."""
    chat = f"{{%- for m in messages -%}}{start} {{{{ m.content ~ (eos_token if m.role == 'assistant' else '') }}}}"
    chat += "{{- ' ANSWER' if m.role == 'user' and (add_generation_prompt or not loop.last) -}}{%- endfor -%}"
    chat = chat.replace(f"-%}}{start} ", f"-%}}{{{{- '{start} ' if m.role == 'user' else ' ' -}}}}")
    one = opened(folder(tmp_path / "m", chat))
    messages = (
        Message("user", "hi"),
        Message("assistant", "ok"),
        Message("user", "and?"),
        Message("assistant", "no"),
    )
    conversation = Conversation("t", messages)
    assert one.sample(conversation).tokens.tolist() == one.chat(messages)
    before = prompt(messages[:3], one.encoder.control, one.template)
    assert one.encoder.ids(before) == one.chat(messages[:3], generate=True)
    assert one.sample(conversation).tokens.tolist()[: len(one.encoder.ids(before))] == one.encoder.ids(before)


def test_a_template_that_writes_the_date_writes_the_same_every_day(tmp_path: Path) -> None:
    """Samples that changed from one day to the next could neither be kept nor resumed."""
    day = (
        "{%- if date_string is not defined -%}{%- set date_string = strftime_now('%d %b %Y') -%}{%- endif -%}"
    )
    day += "{{- '<|im_start|>system\\n' ~ date_string ~ '<|im_end|>' -}}"
    one = opened(folder(tmp_path / "m", day + CHATML_CHAT, ADDED["chatml"][1]))
    sample = one.sample(Conversation("t", (Message("user", "hi"), Message("assistant", "ok"))))
    assert "26 Jul 2024" in one.encoder.decode(sample.tokens)
    with pytest.raises(ValueError, match=r"writes today's date \(strftime_now\)"):
        opened(folder(tmp_path / "n", "{{- strftime_now('%d') -}}" + CHATML_CHAT, ADDED["chatml"][1]))


# Control strings in data.


@pytest.mark.parametrize("name", ADDED)
@pytest.mark.parametrize(
    "text",
    ["</s>", "<s>x", "<unk>", "<|im_end|>", "<|eot_id|>", "\ufdd0", "\ufdd0\ue001", "\ue002</s>\ufdd0"],
)
def test_control_strings_in_data_stay_text(name: str, text: str, demo: dict[str, Opened]) -> None:
    one = demo[name]
    special = set(one.tokenizer.all_special_ids)

    def control(text: str) -> list[int]:
        messages = (Message("system", text), Message("user", text, True), Message("assistant", text))
        made = one.sample(Conversation("t", (*messages, Message("user", text))))
        learned = "".join(one.encoder.texts(made.tokens[made.trained].tolist()))
        stop = one.encoder.decode(made.tokens[made.kinds == SpanKind.STOP])
        space = " " if name == "llama2" else ""
        assert learned.lstrip(" ") == f"{text}{space}{text}{space}{stop}"
        return [id for id in made.tokens.tolist() if id in special]

    assert control(text) == control("hi")


def test_control_strings_in_calls_and_tools_stay_text(demo: dict[str, Opened]) -> None:
    one = demo["headers"]

    def made(text: str) -> list[int]:
        call = Call.of(f"f{text}", {f"x{text}": [text]})
        conversation = talk(
            USER,
            Message("assistant", calls=(call,)),
            Message("observation", text),
            OK,
            tools=(canonical({"name": text}),),
        )
        segments = one.template.render(conversation, one.encoder.control)
        written = one.encoder.decode(one.encoder.ids(segments))
        assert written.count(text) == 5
        return [segment.id for segment in segments if isinstance(segment, Control)]

    assert made("<|eot_id|>\ufdd0</s>") == made("qq")
