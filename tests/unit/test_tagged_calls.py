"""Calls between tags: read as they were written, and nothing a model may write does more than be refused.

`CALL_EXAMPLES=100000 pytest tests/unit/test_tagged_calls.py` tries as many conversations and hostile replies.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from random import Random

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tokenization.conversation import Call, Message, canonical
from tokenization.grammar.reply import DEEPEST, LONGEST_CALL, CallError, Said, strict_json
from tokenization.grammar.tagged import CLOSE, OPEN, call_parts, parse_turn, turn_parts
from tokenization.segments import Part, RenderError

EXAMPLES = int(os.environ.get("CALL_EXAMPLES", "150"))
REPLIES = int(os.environ.get("CALL_EXAMPLES", "3000"))
often = settings(deadline=None, max_examples=EXAMPLES)  # time depends on what else runs

# What JSON can hold: text without half surrogate pairs, numbers of any size, any nesting, any order of keys.

AWKWARD = [
    "",
    " ",
    "\n",
    "'",
    '"',
    "\\",
    "'\"",
    "\\'",
    "\\n",
    "\x00",
    "\x7f",
    "\x85",
    "\u2028",
    "e\u0301",
    "北京",
    "🙂",
    "```",
]
AWKWARD += [
    "a\n```\nb",
    "tool_call(",
    ")",
    "**",
    "</s>",
    "<|user|>",
    "class",
    "None",
    "a b",
    "ﬁ",
    "℘",
    "ª",
    "True",
    "\r\n",
]
texts = st.one_of(
    st.text(max_size=20), st.sampled_from(AWKWARD), st.text(st.sampled_from("'\"\\nx0\n\t `{}"), max_size=8)
)
numbers = st.one_of(
    st.integers(),
    st.sampled_from([10**22, -(2**70), 10**40]),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([0.0, -0.0, 1e22, 1e-7, 5e-324, 1.7976931348623157e308, 1.0, 1e16]),
)
leaves = st.one_of(texts, numbers, st.booleans(), st.none())
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
names = st.one_of(
    st.sampled_from(["get_weather", "查询天气", "text-to-speech", "math.hypot", "a/b"]), texts
).filter(bool)
calls = st.builds(Call.of, names, st.dictionaries(texts, values, max_size=4))


def nested(levels: int) -> object:
    """Lists and dicts in turn, the innermost empty."""
    value: object = []
    for level in range(levels - 1):
        value = [value] if level % 2 else {"a": value}
    return value


def written(parts: Sequence[Part]) -> str:
    return "".join(text for text, _, _ in parts)


# What is read.

WEATHER = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
OSLO = Call("get_weather", '{"city": "Oslo"}')
READ: list[tuple[str, list[Said]]] = [
    ("", []),
    (" Hello.\n", [" Hello.\n"]),
    (WEATHER, [OSLO]),
    (f"Let me see.\n{WEATHER}", ["Let me see.", OSLO]),
    (f"{WEATHER}\nWait.", [OSLO, "Wait."]),
    (f"{WEATHER}\n{WEATHER}", [OSLO, OSLO]),
    (f"{WEATHER}{WEATHER}", [OSLO, OSLO]),
    (f"a\n\n{WEATHER}\n\nb\n\n{WEATHER}\n\n", ["a\n", OSLO, "\nb\n", OSLO, "\n"]),
    ('<tool_call>{"name":"f","arguments":{}}</tool_call>', [Call("f", "{}")]),
    (
        '<tool_call>\r\n\t{"arguments": {"b": 1, "a": [1.0, -0.0, true, null]}, "name": "f"} </tool_call>',
        [Call("f", '{"b": 1, "a": [1.0, -0.0, true, null]}')],
    ),
    (
        r'<tool_call>{"name": "f\n\"", "arguments": {"\u00e9": "\ud83d\ude42"}}</tool_call>',
        [Call('f\n"', '{"é": "🙂"}')],
    ),
    (
        '<tool_call>{"name": "f", "arguments": {"a": "</tool_call>"}}</tool_call>',
        [Call("f", '{"a": "</tool_call>"}')],
    ),
    ("</tool_call> <tool_response>", ["</tool_call> <tool_response>"]),
]


@pytest.mark.parametrize(("text", "said"), READ)
def test_read(text: str, said: list[Said]) -> None:
    assert parse_turn(text) == said


def one(name: str = '"f"', arguments: str = '{"a": 1}') -> str:
    return f'<tool_call>{{"name": {name}, "arguments": {arguments}}}</tool_call>'


REFUSED = [
    ("<tool_call>hello</tool_call>", "Expecting value"),
    ("<tool_call></tool_call>", "Expecting value"),
    ("<tool_call><tool_call>", "Expecting value"),
    ('<tool_call>["f", {}]</tool_call>', '"name" and "arguments"'),
    ('<tool_call>{"name": "f"}</tool_call>', '"name" and "arguments"'),
    ('<tool_call>{"name": "f", "arguments": {}, "id": 1}</tool_call>', '"name" and "arguments"'),
    ("<tool_call>{'name': 'f', 'arguments': {}}</tool_call>", "double quotes"),
    (one(name='""'), "a string that is not empty"),
    (one(name="7"), "a string that is not empty, not 7"),
    (one(arguments="[1]"), "an object, not [1]"),
    (one(arguments='"{}"'), 'an object, not "{}"'),
    (one(arguments="null"), "an object, not null"),
    (one(arguments='{"a": NaN}'), "NaN is not part of JSON"),
    (one(arguments='{"a": -Infinity}'), "-Infinity is not part of JSON"),
    (one(arguments='{"a": 1e999}'), "1e999 is beyond a float's range"),
    (one(arguments='{"a": 1, "a": 1}'), "a key twice"),
    (one(arguments='{"a": {"b": 1, "b": 2}}'), "a key twice"),
    (one(arguments=r'{"a": "\ud83d"}'), "half a surrogate pair"),
    (one(arguments=r'{"\udc00": 1}'), "half a surrogate pair"),
    (one(name=r'"\ud83d"'), "half a surrogate pair"),
    (one(arguments=f'{{"a": {"9" * 4301}}}'), "4300 digits"),
    (one(arguments='{"a": 01}'), "delimiter"),
    (one(arguments='{"a": 1,}'), "property name"),
    (one(arguments=f'{{"a": {canonical(nested(DEEPEST + 1))}}}'), f"deeper than {DEEPEST}"),
    (one(name="[" * 500 + "]" * 500), f"deeper than {DEEPEST}"),
    (one(arguments="[" * 50_000), "nested too deep"),
    ('<tool_call>{"name": "f", "arguments": {}} {}</tool_call>', "not closed by </tool_call>"),
    (f"{WEATHER}\n<tool_call>no</tool_call>", "Expecting value"),
]


@pytest.mark.parametrize(("text", "words"), REFUSED)
def test_refused(text: str, words: str) -> None:
    with pytest.raises(CallError, match=re.escape(words)) as caught:
        parse_turn(text)
    assert not caught.value.unfinished
    assert len(str(caught.value)) < 200
    assert "\n" not in str(caught.value)


AWKWARD_CALL = Call.of(
    "f\n", {"a\\": [True, False, None, -1.5e-7, 1e22, {"é\x00": 'x"\\'}], "": {}, "🙂": []}
)


@pytest.mark.parametrize("ensure_ascii", [False, True])
def test_cut_anywhere_a_call_is_unfinished(ensure_ascii: bool) -> None:
    item = {"name": AWKWARD_CALL.name, "arguments": AWKWARD_CALL.values}
    text = f"{OPEN}\n{json.dumps(item, ensure_ascii=ensure_ascii)}\n{CLOSE}"
    assert parse_turn(text) == [AWKWARD_CALL]
    for length in range(len(OPEN), len(text)):
        with pytest.raises(CallError) as caught:
            parse_turn(text[:length])
        assert caught.value.unfinished, text[:length]


@often
@given(
    st.lists(st.tuples(texts.filter(lambda text: OPEN not in text), st.lists(calls, max_size=3)), max_size=4)
)
def test_a_turn_is_read_back(turn: list[tuple[str, list[Call]]]) -> None:
    messages = [Message("assistant", text, calls=tuple(made)) for text, made in turn]
    assert parse_turn(written(turn_parts(messages))) == told(turn)
    stripped = [(text.strip(), made) for text, made in turn]
    assert parse_turn(written(turn_parts(messages, strip=True))) == told(stripped)


def told(turn: Sequence[tuple[str, Sequence[Call]]]) -> list[Said]:
    """The turn as it must be read: an empty text is none, and texts in a row are one."""
    said: list[Said] = []
    for text, made in turn:
        if text and said and isinstance(last := said[-1], str):
            said[-1] = f"{last}\n{text}"
        elif text:
            said.append(text)
        said += made
    return said


def test_what_is_written() -> None:
    messages = [
        Message("assistant", "Let me see.\n", calls=(OSLO, Call.of('f"\n', {"é": [1.0, None], "a": "\x00"}))),
        Message("assistant", "Done."),
    ]
    second = r'{"name": "f\"\n", "arguments": {"é": [1.0, null], "a": "\u0000"}}'
    assert (
        written(turn_parts(messages))
        == f"Let me see.\n\n{WEATHER}\n<tool_call>\n{second}\n</tool_call>\nDone."
    )


@often
@given(calls)
def test_a_server_reads_the_same(call: Call) -> None:
    """As vLLM's and others' readers of this form do it: what stands between the tags is JSON."""
    text = written(call_parts(call, True))
    assume(text.count(CLOSE) == 1)  # inside a string it ends the call for them
    found = re.findall(r"<tool_call>(.*?)</tool_call>", text, re.DOTALL)
    assert [json.loads(item) for item in found] == [
        {"name": call.name, "arguments": json.loads(call.arguments)}
    ]


@often
@given(values, st.sampled_from([None, 0, 3]), st.booleans(), st.text("x}", max_size=2))
def test_json_is_read_as_the_library_reads_it(
    value: object, indent: int | None, ascii: bool, rest: str
) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=ascii)
    read, end = strict_json(f"x{text} {rest}", 1)
    assert end == 1 + len(text)
    assert canonical(read) == canonical(json.loads(text))  # also types, the zero's sign and the order of keys


# What is not written, because it would not be read.

UNWRITABLE = [
    (Call(""), "a call has no name"),
    (Call("\ud83d"), "half a surrogate pair"),
    (Call("f", '{"\ud83d": 1}'), "half a surrogate pair"),
    (Call.of("f", {"a": nested(DEEPEST + 1)}), f"deeper than {DEEPEST} levels"),
]


@pytest.mark.parametrize(("call", "words"), UNWRITABLE)
def test_not_written(call: Call, words: str) -> None:
    with pytest.raises(RenderError, match=words):
        turn_parts([Message("assistant", calls=(call,))])


@pytest.mark.parametrize("number", [10**4299, 1 - 10**4300])
def test_longest_integers(number: int) -> None:
    call = Call.of("f", {"a": number})
    assert parse_turn(written(call_parts(call, True))) == [call]


def test_deepest_arguments() -> None:
    call = Call.of("f", {"a": nested(DEEPEST)})
    assert parse_turn(written(call_parts(call, True))) == [call]


@pytest.mark.parametrize(("count", "between"), [(1, ""), (2, ""), (3, "a text")])
def test_longest_calls(count: int, between: str) -> None:
    """The limit is on all characters from the first call's tag to the last call's."""

    def turn(length: int) -> list[Message]:
        messages = [Message("assistant", between, calls=(OSLO,)) for _ in range(count - 1)]
        return [
            Message("assistant", "b", calls=(Call.of("f", {"a": "x" * length}),)),
            *messages,
            Message("assistant", "c"),
        ]

    fixed = len(written(turn_parts(turn(0)))) - len("b\n" + "\nc")
    longest = turn(LONGEST_CALL - fixed)
    text = written(turn_parts(longest))
    assert parse_turn(text) == told([(message.content, message.calls) for message in longest])
    with pytest.raises(RenderError, match=f"{LONGEST_CALL + 1} characters"):
        turn_parts(turn(LONGEST_CALL - fixed + 1))
    with pytest.raises(CallError, match=f"longer than {LONGEST_CALL}") as caught:
        parse_turn(text.replace("xxx", "xxxx", 1))
    assert not caught.value.unfinished


# What models may write.

_events: list[str] | None = None


def _record(event: str, _: tuple[object, ...]) -> None:
    if _events is not None:
        _events.append(event)


sys.addaudithook(_record)


def audited(parse: Callable[[str], object], text: str) -> tuple[object, list[str]]:
    """What `parse` gives, a CallError as such, and the audit events it raised: imports, files, processes, code."""
    global _events
    _events = seen = []
    try:
        return parse(text), seen
    except CallError as error:
        return error, seen
    finally:
        _events = None


def hostile(random: Random, valid: Sequence[str], tokens: Sequence[str]) -> str:
    """A reply that is no good, or only just: a valid one with edits or cut short, tokens in any order, long runs."""
    text = random.choice(valid)
    place = random.randrange(len(text) + 1)
    match random.randrange(4):
        case 0:
            return text[:place]
        case 1:
            return "".join(random.choices(tokens, k=random.randrange(1, 40)))
        case 2:
            return text[:place] + random.choice(tokens) * random.randrange(1, 400) + text[place:]
        case _:
            for _ in range(random.randrange(1, 5)):
                place, end = sorted(random.choices(range(len(text) + 1), k=2))
                new = random.choice(
                    [random.choice(tokens), chr(random.randrange(0x300)), text[place:end], ""]
                )
                text = text[:place] + new + text[min(end, place + random.randrange(4)) :]
            return text


def hostile_replies(count: int, valid: Sequence[str], tokens: Sequence[str]) -> Iterator[str]:
    random = Random(7)
    return (hostile(random, valid, tokens) for _ in range(count))


VALID = [text for text, _ in READ] + [written(call_parts(AWKWARD_CALL, True))]
TOKENS = [
    OPEN,
    CLOSE,
    "<tool_",
    '{"name": "f", "arguments": ',
    '"',
    "\\",
    "\\u",
    "\\ud83d",
    "[",
    "]",
    "{",
    "}",
    "{}",
    ":",
    ",",
]
TOKENS += [
    " ",
    "\n",
    "1",
    "-",
    ".5",
    "e9",
    "true",
    "nul",
    "NaN",
    "Infinity",
    "\ud83d",
    "\x00",
    "🙂",
    "__import__('os')",
    '"a": ',
]


def test_hostile_replies() -> None:
    outcomes = {"read": 0, "refused": 0, "unfinished": 0}
    for text in hostile_replies(REPLIES, VALID, TOKENS):
        said, events = audited(parse_turn, text)
        assert events == [], text
        if isinstance(said, CallError):
            outcomes["unfinished" if said.unfinished else "refused"] += 1
            continue
        assert isinstance(said, list)
        outcomes["read"] += 1
        messages = [
            Message("assistant", it) if isinstance(it, str) else Message("assistant", calls=(it,))
            for it in said
        ]
        assert parse_turn(written(turn_parts(messages))) == said, text
    print(outcomes)
    assert min(outcomes.values()) > REPLIES // 50  # the generator is worth something


def test_the_audit_sees_what_is_forbidden() -> None:
    assert audited(eval, "open.__name__")[1] == ["compile", "exec"]
    assert "open" in audited(lambda text: open(text).close(), __file__)[1]


HEAD = '<tool_call>\n{"name": "f", "arguments": {"a": '
LARGE = [
    "<tool_call>",
    "<tool_call",
    "</tool_call>",
    '<tool_call>{"name":"f","arguments":{}}</tool_call>',
    "text\n",
    f"{HEAD}\0[",
    f'{HEAD}\0{{"a":',
    f"{HEAD}\0[],",
    f"{HEAD}[\0[],",
    f"{HEAD}[\00.1,",
    f"{HEAD}\0001",
    f"{HEAD}1.\0000",
    f"{HEAD}1e\0009",
    f"{HEAD}\0 ",
    f'{HEAD}"\0a',
    f'{HEAD}"\0\\n',
    f'{HEAD}"\0🙂',
    f'{HEAD}"\0\\ud83d',
]


@pytest.mark.parametrize("text", LARGE)
def test_a_million_characters(text: str) -> None:
    """What follows the NUL over and over. In linear time, or the test would not end."""
    head, _, run = text.rpartition("\0")
    said, events = audited(parse_turn, head + run * (10**6 // len(run)))
    assert isinstance(said, list | CallError)
    assert events == []
