"""Rows that list their messages: ShareGPT's {"from", "value"} and OpenAI's {"role", "content"}, calls and results.

What a message holds beyond text, calls and `loss` is either known to be of no concern to the model or refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import NamedTuple

from tokenization.conversation import Call, Message, Role, order_fault
from tokenization.formats.calls import (
    NamedCall,
    message_calls,
    metadata_call,
    read_arguments,
    read_calls,
    tool_name,
)
from tokenization.formats.fields import (
    Fault,
    Object,
    given,
    json_text,
    named,
    optional_text,
    required,
    shown,
    text,
)
from tokenization.formats.results import Spoken, settled

ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "function_call": "assistant",
    "observation": "observation",
    "tool": "observation",
    "tool_response": "observation",
    "function": "observation",
}

MEDIA = ("images", "image", "image_url", "videos", "video", "audios", "audio", "input_audio")
_SEEN = {
    *("tool_calls", "function_call", "tool_call_id", "name", "metadata", "parameters", "observation"),
    *("tools", "functions", "refusal", "reasoning", "reasoning_content", "thinking"),
    *MEDIA,
}
"""Keys that the model would see, or would have to write: read where they have their place, else refused."""

_NO_LOSS = {"role", "content", "from", "value", "loss", "weight", *_SEEN}


class Fields(NamedTuple):
    """The keys of a message."""

    role: str
    content: str


SHAREGPT = Fields("from", "value")
OPENAI = Fields("role", "content")


class Reading(NamedTuple):
    """What a row's messages come to."""

    messages: tuple[Message, ...]
    tools: tuple[tuple[str, object], ...] = ()
    """Tools among the messages, not read yet, each with the name of its place."""


def read_messages(items: object, key: str, fields: Fields) -> Reading:
    """The messages listed under `key`. Faults count messages from 1, as they stand in the row."""
    if not isinstance(items, list):
        raise Fault(f"{key!r} is {named(items)}, not a list of messages")
    if not items:
        raise Fault(f"{key!r} is an empty list; drop the row or give it messages")
    spoken = [_message(item, number, fields) for number, item in enumerate(items, 1)]
    if fault := order_fault([one.message for one in spoken]):
        raise Fault(fault)
    # The order is right, so that only the first can be the system's.
    tools = [("message 1: 'tools'", items[0]["tools"])] if given(items[0], "tools") else []
    return Reading(tuple(settled(spoken)), tuple(tools))


def _message(item: object, number: int, fields: Fields) -> Spoken:
    owner = f"message {number}"
    if not isinstance(item, Mapping):
        shape = f'{{"{fields.role}": …, "{fields.content}": …}}'
        raise Fault(f"{owner} is {named(item)}, not an object {shape}")
    role_name = required(item, fields.role, owner)
    role = ROLES.get(role_name) if isinstance(role_name, str) else None
    if role is None:
        raise Fault(f"{owner} has the unknown role {shown(role_name)}; {_known_roles(role_name)}")
    if role_name != "function_call" and item.keys() == {fields.role, fields.content}:
        return Spoken(
            number, Message(role, _content(item, owner, fields))
        )  # the most by far: nothing else to read
    loss = _loss(item, role, owner)
    if role_name == "function_call":
        _refuse_unread(item, owner, role)
        value = required(item, fields.content, owner)
        return _assistant(number, "", loss, read_calls(value, f"{owner}: {fields.content!r}"))
    if role_name == "tool" and item.get("parameters") is not None:
        return _call_and_result(item, number, loss, fields)
    if role == "assistant":
        _refuse_unread(item, owner, role, "tool_calls", "function_call", "metadata")
        return _answer(item, number, loss, fields)
    if role == "observation":
        _refuse_unread(item, owner, role, "tool_call_id", "name")
        message = Message(role, _content(item, owner, fields), loss, name=optional_text(item, "name", owner))
        return Spoken(number, message, answers=optional_text(item, "tool_call_id", owner))
    _refuse_unread(item, owner, role, *(["tools"] if role == "system" else []))
    return Spoken(number, Message(role, _content(item, owner, fields), loss))


def _answer(item: Object, number: int, loss: bool | None, fields: Fields) -> Spoken:
    """A text, calls, or a text and then calls. ChatGLM3's `metadata` makes the content itself a call."""
    owner = f"message {number}"
    calls = message_calls(item, owner)
    # Beside calls OpenAI writes null, or nothing, where there is no text.
    content = "" if calls and item.get(fields.content) is None else _content(item, owner, fields)
    metadata = item.get("metadata")
    if not isinstance(metadata, str) or not metadata.strip():
        return _assistant(number, content, loss, calls)
    if calls:
        raise Fault(f"{owner} has 'metadata' beside other calls; keep one of the two")
    return _assistant(number, "", loss, [NamedCall(metadata_call(metadata.strip(), content, owner))])


def _assistant(number: int, content: str, loss: bool | None, calls: Sequence[NamedCall]) -> Spoken:
    message = Message("assistant", content, loss, tuple(named_call.call for named_call in calls))
    return Spoken(number, message, tuple(calls))


def _call_and_result(item: Object, number: int, loss: bool | None, fields: Fields) -> Spoken:
    """ChatGLM3's `tool`: a call, whose `loss` it is, and its result, which is never trained."""
    owner = f"message {number}"
    _refuse_unread(item, owner, "observation", "name", "parameters", "observation")
    if given(item, fields.content):
        raise Fault(f"{owner} has {fields.content!r} beside 'parameters'; give the text a message of its own")
    name = tool_name(required(item, "name", owner), f"{owner}: 'name'")
    call = Call(name, read_arguments(item["parameters"], f"{owner}: 'parameters'"))
    observation, place = required(item, "observation", owner), f"{owner}: 'observation'"
    content = text(observation, place) if isinstance(observation, str) else json_text(observation, place)
    result = Message("observation", content, name=name)
    return Spoken(number, Message("assistant", "", loss, (call,)), result=result)


def _content(item: Object, owner: str, fields: Fields) -> str:
    """The text of a message. OpenAI's may be null for none, or a list of parts, which are joined as they are."""
    value, name = required(item, fields.content, owner), f"{owner}: {fields.content!r}"
    if fields == SHAREGPT or not (value is None or isinstance(value, list)):
        return text(value, name)
    return "".join(_part(part, f"{name}, part {number}") for number, part in enumerate(value or [], 1))


def _part(part: object, name: str) -> str:
    if not isinstance(part, Mapping):
        raise Fault(f'{name} is {named(part)}, not an object {{"type": "text", "text": …}}')
    kind = required(part, "type", name)
    if kind != "text":
        raise Fault(
            f"{name} has the type {shown(kind)}; only 'text' can be trained on: drop the part or the row"
        )
    return text(required(part, "text", name), f"{name}: 'text'")


def _loss(item: Object, role: Role, owner: str) -> bool | None:
    """`loss`, or OpenAI's `weight` of an assistant's message. One misspelt would be trained on without a word."""
    for key in item:
        if key not in _NO_LOSS and get_close_matches(key.lower(), ("loss",), cutoff=0.8):
            raise Fault(f"{owner} has {shown(key)}, which is not read; write 'loss': true or false")
    loss, weight = item.get("loss"), item.get("weight")
    if not (loss is None or isinstance(loss, bool)):
        raise Fault(f"{owner}: 'loss' is {shown(loss)}; it can be true, false or null")
    if weight is None:
        return loss
    if loss is not None:
        raise Fault(f"{owner} has 'loss' and 'weight'; keep one of the two")
    if role != "assistant":
        raise Fault(f"{owner} has 'weight', but is the {role}'s; only the assistant's have one: write 'loss'")
    if isinstance(weight, bool) or weight not in (0, 1):
        raise Fault(f"{owner}: 'weight' is {shown(weight)}; it can be 0 or 1")
    return weight == 1


def _refuse_unread(item: Object, owner: str, role: Role, *read: str) -> None:
    for key in item:
        if key not in _SEEN or key in read or not given(item, key):
            continue
        if key == "metadata" and not isinstance(item[key], str):
            continue  # notes about the message, as others than ChatGLM3 keep them
        raise Fault(
            f"{owner} has {key!r}, which is not read from the {role}'s messages; "
            "write it into a message's text or drop it"
        )


def _known_roles(name: object) -> str:
    near = get_close_matches(name.lower(), ROLES, n=1) if isinstance(name, str) else []
    known = f"known are {', '.join(ROLES)}"
    return f"did you mean {near[0]!r}? {known}" if near else known
