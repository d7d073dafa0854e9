"""Structure that data could counterfeit: what is done about a template's marks in a conversation's text.

Control tokens need none of this: they are put in by id, and no text is encoded into one. But Llama 2's `[INST]`, or
a tag around a call, is ordinary text, and a message that holds it would read to the model as a turn of its own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, Literal

from tokenization.conversation import Conversation, Message
from tokenization.segments import RenderError

Policy = Literal["refuse", "neutralise", "allow"]


def settle(conversation: Conversation, marks: Sequence[str], policy: Policy) -> Conversation:
    """The conversation as it may be rendered.

    `refuse` raises RenderError where a message or a tool holds one of the marks; `neutralise` parts each mark behind
    its first character with a space (`[ INST]`), in text, arguments and tools; `allow` leaves all as it is.
    """
    if policy == "allow" or not marks:
        return conversation
    pattern = _any_of(tuple(marks))
    found = next(
        ((place, hit[0]) for place, text in strings(conversation) if (hit := pattern.search(text))), None
    )
    if found is None:
        return conversation
    place, mark = found
    if policy == "refuse":
        raise RenderError(
            f"{place} holds {mark!r}, which is the template's own mark; mend it, or set data.control_text=neutralise "
            f"to write it {parted(mark)!r}, or =allow to keep it"
        )
    try:
        return conversation.map_text(lambda text: pattern.sub(lambda hit: parted(hit[0]), text))
    except ValueError as error:
        raise RenderError(f"{place} holds {mark!r}, and with it written apart {error}; rename one") from None


@lru_cache(maxsize=8)
def _any_of(marks: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, marks)))


def parted(mark: str) -> str:
    """The mark as it is written when it is meant as text."""
    return f"{mark[0]} {mark[1:]}"


def strings(conversation: Conversation) -> Iterator[tuple[str, str]]:
    """Every string of the data, as it will stand in the rendered text, and where it is."""
    for tool in conversation.tools:
        yield from (("a tool", text) for text in _inside(json.loads(tool)))
    for number, message in enumerate(conversation.messages, 1):
        yield from ((f"message {number}", text) for text in message_strings(message))


def message_strings(message: Message) -> Iterator[str]:
    """The text of a message, the names of its calls, and every string in their arguments."""
    yield message.content
    for call in message.calls:
        yield call.name
        yield from _inside(call.values)


def _inside(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _inside(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from _inside(item)
