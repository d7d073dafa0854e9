"""Tools, and calls of them, as rows write them: to `canonical` JSON, with nothing added and nothing lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tokenization.conversation import INTERPRETER, Call
from tokenization.formats.fields import (
    NOTHING,
    Fault,
    Object,
    given,
    json_text,
    json_value,
    named,
    optional_text,
    required,
    shown,
    text,
)
from tokenization.grammar.pythonic import parse_message
from tokenization.grammar.reply import CallError

_FUNCTION = ("name", "arguments")
_TOOL_CALL = ("function", "id", "type", "index")
_FENCE = "```"


class NamedCall(NamedTuple):
    """A call and the id its result is told by, if it has one."""

    call: Call
    id: str | None = None


def read_tools(value: object, name: str) -> tuple[str, ...]:
    """A list of tools, or its JSON text. OpenAI's wrapping {"type": "function", "function": …} is taken off."""
    if isinstance(value, str):
        value = json_value(value, name)
    if value is None:
        return ()
    if not isinstance(value, list):
        raise Fault(f"{name} is {named(value)}, not a list of tools; put it in [ ]")
    return tuple(json_text(_unwrapped(tool), f"{name}, number {n}") for n, tool in enumerate(value, 1))


def _unwrapped(tool: object) -> object:
    if isinstance(tool, Mapping) and isinstance(tool.get("function"), Mapping):
        return tool["function"]  # what stands beside it, `type` and `strict`, is for servers
    return tool


def message_calls(item: Object, owner: str) -> list[NamedCall]:
    """What an assistant's message calls: OpenAI's `tool_calls`, or its older `function_call`."""
    if not given(item, "tool_calls"):
        if not given(item, "function_call"):
            return []
        return [NamedCall(read_call(item["function_call"], f"{owner}: 'function_call'"))]
    if given(item, "function_call"):
        raise Fault(f"{owner} has 'function_call' and 'tool_calls'; keep one of the two")
    calls = item["tool_calls"]
    if not isinstance(calls, list):
        raise Fault(f"{owner}: 'tool_calls' is {named(calls)}, not a list; put the call in [ ]")
    return [_tool_call(call, f"{owner}, call {number}") for number, call in enumerate(calls, 1)]


def _tool_call(value: object, owner: str) -> NamedCall:
    if not isinstance(value, Mapping):
        raise Fault(f'{owner} is {named(value)}, not an object {{"id": …, "type": …, "function": …}}')
    _refuse_others(value, _TOOL_CALL, owner)
    if value.get("type", "function") not in (None, "function"):
        raise Fault(f"{owner} has the type {shown(value['type'])}; only 'function' can be called")
    call = read_call(required(value, "function", owner), owner)
    return NamedCall(call, optional_text(value, "id", owner))


def read_calls(value: object, owner: str) -> list[NamedCall]:
    """One call or a list of them, or the JSON text of either."""
    if isinstance(value, str):
        value = json_value(value, owner)
    calls = value if isinstance(value, list) else [value]
    if not calls:
        raise Fault(f"{owner} is an empty list of calls; drop the message or write a call")
    return [NamedCall(read_call(call, owner)) for call in calls]


def read_call(value: object, owner: str) -> Call:
    """{"name": …, "arguments": …}."""
    if not isinstance(value, Mapping):
        raise Fault(f'{owner}: a call is {named(value)}, not an object {{"name": …, "arguments": …}}')
    _refuse_others(value, _FUNCTION, owner)
    name = tool_name(required(value, "name", owner), f"{owner}: 'name'")
    return Call(name, read_arguments(required(value, "arguments", owner), f"{owner}: 'arguments'"))


def tool_name(value: object, key: str) -> str:
    """A name that stays the same in every template: some put it on a line of its own."""
    name = text(value, key)
    if not name or name != name.strip() or len(name.splitlines()) > 1:
        raise Fault(f"{key} is {shown(name)}; a tool's name is one line without white space at its ends")
    return name


def read_arguments(value: object, name: str) -> str:
    """An object, or its JSON text, the empty one for {}."""
    if isinstance(value, str):
        value = json_value(value, name) if value.strip() else {}
    if not isinstance(value, Mapping):
        raise Fault(f"{name} is {named(value)}, not an object; write {{}} for none")
    return json_text(value, name)


def metadata_call(metadata: str, content: str, owner: str) -> Call:
    """ChatGLM3's: the tool's name, or `interpreter`, beside the block that calls it."""
    if metadata == INTERPRETER:
        return Call.of(INTERPRETER, {"code": _program(content, owner)})
    name = tool_name(metadata, f"{owner}: 'metadata'")
    try:
        said = parse_message(f"{name}\n{content}")
    except CallError as error:
        raise Fault(f"{owner}: the call of {shown(name)}: {error}; mend it or empty 'metadata'") from None
    if isinstance(said, str):
        raise Fault(f"{owner}: 'metadata' names a tool, but the content calls none; mend it or empty it")
    return said


def _program(content: str, owner: str) -> str:
    """Code in a ```python block, or bare."""
    block = content.strip()
    if not block.startswith(_FENCE):
        if f"{_FENCE}python" in block:
            raise Fault(f"{owner}: text stands before the code; give it a message of its own")
        return content
    code = block.removeprefix(f"{_FENCE}python").removesuffix(_FENCE)
    whole = len(code) == len(block) - len(f"{_FENCE}python") - len(_FENCE)
    if not whole or not code[:1].isspace() or f"\n{_FENCE}" in code:
        raise Fault(f"{owner}: the code is no single {_FENCE}python block that {_FENCE} closes; mend it")
    return code.removeprefix("\n").removesuffix("\n")


def _refuse_others(fields: Object, known: Sequence[str], owner: str) -> None:
    """A call's other keys might hold arguments."""
    for key, value in fields.items():
        if key not in known and value not in NOTHING:
            raise Fault(f"{owner}: a call has {shown(key)}, which is not read; known are {', '.join(known)}")
