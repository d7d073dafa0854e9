"""The rules of lint, one conversation after the other, each with the findings it must give and no others."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenization.conversation import Call, Conversation, Message, order_fault
from tokenization.length import Fitted, LengthCounts
from tokenization.lint import Marks, content_key, lint_conversation, lint_sample
from tokenization.lint.finding import RULES, Finding, finding
from tokenization.sample import SpanKind, TokenizedSample

WEATHER = {
    "name": "get_weather",
    "description": "The weather in a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "unit": {"enum": ["celsius", "fahrenheit"]}},
        "required": ["city"],
    },
}
SEARCH = {"name": "search", "parameters": {"type": "object", "properties": {"words": {"type": "string"}}}}
MARKS = Marks(("[INST]", "[/INST]", "<tool_call>"), "refuse", ("<|user|>", "<s>", "</s>", "<|im_start|>"))


def system(text: str) -> Message:
    return Message("system", text)


def user(text: str = "Go on.") -> Message:
    return Message("user", text)


def says(text: str = "All right.", *calls: Call) -> Message:
    return Message("assistant", text, calls=calls)


def calls(name: str, **arguments: object) -> Message:
    return Message("assistant", "", calls=(Call.of(name, arguments),))


def result(text: str = "ok", name: str | None = None) -> Message:
    return Message("observation", text, name=name)


def talk(*messages: Message, tools: list[object] | None = None) -> Conversation:
    return Conversation("x", messages, tuple(json.dumps(tool) for tool in tools or []))


def asked(*messages: Message, tools: list[object] | None = None) -> Conversation:
    return talk(user("What now?"), *messages, tools=[WEATHER, SEARCH] if tools is None else tools)


OSLO = calls("get_weather", city="Oslo")
FIND = calls("search", words="a")
DICT = {
    "name": "f",
    "parameters": {"type": "dict", "properties": {"a": {"type": "float"}}, "required": ["a", "b"]},
}

E, W = "error", "warning"
# What is linted, and each finding: severity, rule, and a part of the message.
TABLE: dict[str, tuple[Conversation, list[tuple[str, str, str]]]] = {
    "a clean one": (
        asked(OSLO, result(), says(), user(), FIND, result("", "search"), says()).with_system("Be kind."),
        [],
    ),
    "a clean one without tools": (talk(user(), says(), user()), []),
    "several calls, results by place": (asked(OSLO, FIND, result(), result(), says()), []),
    "several calls, results by name": (
        asked(OSLO, FIND, result("", "search"), result("", "get_weather"), says()),
        [],
    ),
    "a message with text and two calls": (
        asked(says("Both.", *OSLO.calls, *FIND.calls), result(), result(), says()),
        [],
    ),
    "an unknown tool": (
        asked(calls("get_wether", city="Oslo"), result(), says()),
        [
            (
                E,
                "unknown-tool",
                "message 2 calls 'get_wether', which is not among the tools (get_weather, search)",
            )
        ],
    ),
    "near names first": (
        asked(calls("serch"), result(), says()),
        [(E, "unknown-tool", "among the tools (search, get_weather)")],
    ),
    "many tools are not all listed": (
        asked(calls("z"), tools=[{"name": f"tool_{n}"} for n in range(9)]),
        [(E, "unknown-tool", "(tool_0, tool_1, tool_2, tool_3, tool_4 and 4 more)")],
    ),
    "a call without tools": (
        asked(OSLO, result(), says(), tools=[]),
        [(E, "unknown-tool", "message 2 calls 'get_weather', but no tools are given")],
    ),
    "the interpreter is always known": (
        asked(calls("interpreter", code="1"), result("1"), says(), tools=[]),
        [],
    ),
    "a tool without a name": (
        asked(calls("other"), result(), says(), tools=[WEATHER, {"description": "?"}, "text"]),
        [(W, "schema", "tool 2 has no name"), (W, "schema", "tool 3 has no name")],
    ),
    "a tool given twice": (
        asked(says(), tools=[WEATHER, WEATHER]),
        [(W, "schema", "2 tools are named 'get_weather'")],
    ),
    "a missing argument": (
        asked(calls("get_weather"), result(), says()),
        [(E, "arguments", "message 2 calls 'get_weather': $: 'city' is a required property")],
    ),
    "all violations": (
        asked(calls("get_weather", city=3, unit="kelvin"), result(), says()),
        [
            (E, "arguments", "$.city: 3 is not of type 'string'"),
            (E, "arguments", "$.unit: 'kelvin' is not one of"),
        ],
    ),
    "the second of two calls": (
        asked(says("", *OSLO.calls, Call.of("search", {"words": 1})), result(), result(), says()),
        [(E, "arguments", "message 2 calls 'search': $.words: 1 is not")],
    ),
    "a name the schema is silent about": (
        asked(calls("get_weather", city="Oslo", untis="celsius"), result(), says()),
        [(W, "arguments", "message 2 calls 'get_weather': $: 'untis' is none of its arguments (city, unit)")],
    ),
    "a name the schema forbids": (
        asked(
            calls("f", b=1),
            result(),
            says(),
            tools=[{"name": "f", "parameters": {"additionalProperties": False}}],
        ),
        [(E, "arguments", "$: Additional properties are not allowed ('b' was unexpected)")],
    ),
    "no parameters said": (asked(calls("f", b=1), result(), says(), tools=[{"name": "f"}]), []),
    "a schema that is none": (
        asked(calls("f", a="text", b=1), result(), says(), tools=[DICT]),
        [
            (
                W,
                "schema",
                "no JSON schema: $.type: 'dict' is none of JSON Schema's types; write 'object' (and 1 more)",
            )
        ],
    ),
    "names are looked at nevertheless": (
        asked(calls("f", a=1.5, c=1), result(), says(), tools=[DICT]),
        [
            (W, "schema", "tool 'f'"),
            (E, "arguments", "$: 'b' is required and missing"),
            (E, "arguments", "$: 'c' is none of its arguments (a, b)"),
        ],
    ),
    "a schema that cannot be applied": (
        asked(
            calls("f", a=1),
            result(),
            says(),
            tools=[{"name": "f", "parameters": {"$ref": "https://example.org/x"}}],
        ),
        [(W, "schema", "the schema of tool 'f' cannot be applied: Unresolvable: https://example.org/x")],
    ),
    "a result without any call": (
        asked(says("Action: look"), result(), says()),
        [
            (
                W,
                "orphan-observation",
                "message 3 is an observation, but the turn before makes no structured call",
            )
        ],
    ),
    "a result too many": (
        asked(OSLO, result(), result(), says()),
        [(E, "orphan-observation", "message 4 is a result too many: the turn before makes 1 call;")],
    ),
    "two results too many": (
        asked(OSLO, FIND, result(), result(), result(), result()),
        [(E, "orphan-observation", "message 6 is"), (E, "orphan-observation", "message 7 is")],
    ),
    "a result of another tool": (
        asked(OSLO, result("", "search"), says()),
        [(E, "orphan-observation", "message 3 is a result of 'search', but 'get_weather' was called")],
    ),
    "a tool's second result": (
        asked(OSLO, FIND, result("", "search"), result("", "search"), says()),
        [(E, "orphan-observation", "message 5 is a result of 'search', but 'get_weather' was called")],
    ),
    "the call of an earlier turn does not count": (
        asked(OSLO, FIND, result(), says(), result(), says()),
        [
            (W, "unanswered-call", "message 3 calls 'search'"),
            (W, "orphan-observation", "message 6 is an observation"),
        ],
    ),
    "a call without a result": (
        asked(OSLO, user(), says()),
        [
            (
                W,
                "unanswered-call",
                "message 2 calls 'get_weather', and the conversation goes on without a result",
            )
        ],
    ),
    "an answer that waits for no result": (
        asked(OSLO, says("It is 3 degrees.")),
        [(W, "unanswered-call", "message 2 calls 'get_weather'")],
    ),
    "the data ends with calls": (asked(says("I look."), OSLO, FIND), []),
    "the one whose tool gave none": (
        asked(OSLO, FIND, OSLO, result("", "get_weather"), result("", "get_weather"), says()),
        [(W, "unanswered-call", "message 3 calls 'search'")],
    ),
    "named results choose before the others": (
        asked(OSLO, FIND, result("no name"), result("", "get_weather"), says()),
        [],
    ),
    "a call in the last turn": (asked(says(), user(), OSLO), []),
    "a call in the last turn, the user going on": (asked(OSLO, user()), []),
    "a mark of the template": (
        talk(user("How is [INST] read?"), says()),
        [
            (
                E,
                "control-text",
                "message 1 holds [INST], which the template takes for its own; mend it, or set data.",
            )
        ],
    ),
    "marks of others": (
        talk(system("a</s>b"), user("<|user|>"), says("<s>x</s><s>")),
        [
            (W, "control-text", "message 1 holds </s>: control strings"),
            (W, "control-text", "message 2 holds <|user|>:"),
            (W, "control-text", "message 3 holds </s>, <s>:"),
        ],
    ),
    "both kinds, in arguments too": (
        asked(calls("search", words="[/INST]<s>"), result("<|im_start|>"), says()),
        [
            (E, "control-text", "message 2 holds [/INST]"),
            (W, "control-text", "message 2 holds <s>"),
            (W, "control-text", "message 3 holds <|im_start|>"),
        ],
    ),
    "marks in a tool": (
        asked(says(), tools=[{"name": "f", "description": "Writes [INST]."}]),
        [(E, "control-text", "a tool holds [INST]")],
    ),
    "what only looks like a mark": (talk(user("[inst] < s > <|im start|>"), says()), []),
    "an empty answer": (asked(says(" \n")), [(W, "empty-answer", "message 2 is the assistant's and empty")]),
    "an empty observation or user is none": (talk(user(""), OSLO, result(""), says(), tools=[WEATHER]), []),
    "a tagged call as text": (
        asked(says('<function=get_weather>{"city": "Oslo"}')),
        [(W, "text-call", "message 2 has a call in its text (<function=)")],
    ),
    "a ChatGLM3 block as text": (
        asked(says("Look:\n```python\ntool_call(city='Oslo')\n```")),
        [(W, "text-call", "(```python tool_call()")],
    ),
    "ReAct as text": (
        asked(says("Thought: hm\nAction: search\nAction Input: a")),
        [(W, "text-call", "(Action: search Action Input:)")],
    ),
    "JSON as text": (
        asked(
            says(' {"name": "search", "arguments": {}}'), user(), says('[{"name": "a", "parameters": {}}]')
        ),
        [(W, "text-call", "message 2 has"), (W, "text-call", "message 4 has")],
    ),
    "JSON that is no call": (
        asked(says('{"name": "Oslo"}'), user(), says("{not JSON"), user(), says("[]")),
        [],
    ),
    "deep JSON": (asked(says("[" * 100_000)), []),
    "call-like text without tools": (talk(user(), says('{"name": "search", "arguments": {}}')), []),
    "call-like text of the user's": (asked(says(), user('{"name": "search", "arguments": {}}')), []),
    "in the order of the messages, tools first": (
        asked(says(""), user("<s>"), calls("nope"), tools=[DICT]),
        [
            (W, "schema", ""),
            (W, "empty-answer", "message 2"),
            (W, "control-text", "message 3"),
            (E, "unknown-tool", "message 4"),
        ],
    ),
}


@pytest.mark.parametrize("case", TABLE)
def test_findings(case: str) -> None:
    conversation, expected = TABLE[case]
    found = lint_conversation(conversation, MARKS)
    assert [(one.severity, one.rule) for one in found] == [(severity, rule) for severity, rule, _ in expected]
    for one, (_, _, part) in zip(found, expected, strict=True):
        assert part in one.message


@pytest.mark.parametrize(("policy", "done"), [("neutralise", "writes [ INST]"), ("allow", "lets it stand")])
def test_marks_that_are_dealt_with_are_warnings(policy, done: str) -> None:
    marks = replace(MARKS, policy=policy)
    (one,) = lint_conversation(talk(user("[INST]"), says()), marks)
    assert (one.severity, one.rule) == ("warning", "control-text")
    assert one.message.endswith(f"data.control_text={policy} {done}")


def test_findings_are_one_line_that_a_terminal_does_not_act_on() -> None:
    name = "a\nb\x1b[31m\u2028c"
    tool = {"name": "f", "parameters": {"properties": {name: {"type": "string"}}}}
    (one,) = lint_conversation(asked(calls("f", **{name: 1}), tools=[tool]), MARKS)
    assert one.message == "message 2 calls 'f': $['a b\\x1b[31m c']: 1 is not of type 'string'"
    assert finding("error", "unreadable", "a\x07\r\nb").message == "a\\x07 b"


def test_long_names_and_values_are_cut() -> None:
    long = "n" * 5000
    (one, two) = lint_conversation(asked(calls(long), calls("search", words=[long])), MARKS)
    assert len(one.message) < 200
    assert len(two.message) < 250
    assert two.message.endswith("is not of type 'string'")


def sample(targets: int, rest: int) -> TokenizedSample:
    size = targets + rest
    trained = np.arange(size) >= rest
    return TokenizedSample(
        "s", "x", np.zeros(size, np.int32), trained, np.full(size, SpanKind.TEXT, np.uint8)
    )


def test_what_training_makes_of_a_sample() -> None:
    whole = sample(10, 20)
    kept = Fitted((whole,), LengthCounts(kept=1))
    assert lint_sample(whole, kept, 30, "truncate") == []
    (none,) = lint_sample(sample(0, 5), Fitted((), LengthCounts(no_targets=1)), 30, "truncate")
    assert (none.severity, none.rule) == ("warning", "no-targets")
    parts = Fitted((sample(3, 1), sample(3, 2)), LengthCounts(truncated=1, targets_lost=4))
    (long,) = lint_sample(whole, parts, 29, "window")
    assert long == Finding(
        "warning",
        "too-long",
        "30 tokens, data.sequence_length is 29; data.too_long=window makes 2 samples of it and loses 4 of 10 targets",
    )
    (gone,) = lint_sample(whole, Fitted((), LengthCounts(dropped_long=1, targets_lost=10)), 29, "drop")
    assert gone.message.endswith("data.too_long=drop leaves it out and loses 10 of 10 targets")


def test_content_is_messages_and_tools() -> None:
    one = asked(OSLO, result(), says())
    assert content_key(replace(one, id="y")) == content_key(one)
    messages = one.messages
    others = [
        replace(one, tools=one.tools[:1]),
        replace(one, messages=messages[:-1]),
        replace(one, messages=(*messages[:-1], says("all right."))),
        replace(one, messages=(*messages[:-1], replace(messages[-1], loss=False))),
        replace(one, messages=(messages[0], calls("get_weather", city="Rome"), *messages[2:])),
        replace(one, messages=(*messages[:2], replace(messages[2], name="get_weather"), messages[3])),
    ]
    assert len({content_key(other) for other in [one, *others]}) == 7
    # What `loss` comes to counts, not how it is written.
    assert content_key(
        replace(one, messages=(*messages[:-1], replace(messages[-1], loss=True)))
    ) == content_key(one)


@st.composite
def turns(draw: st.DrawFn) -> Conversation:
    """Turns of calls and results, by number alone."""
    messages = [user()]
    for _ in range(draw(st.integers(1, 4))):
        made = draw(st.integers(0, 3))
        messages += [
            says("", *[Call("f")] * part) for part in ([made] if draw(st.booleans()) else [1] * made or [0])
        ]
        messages += [result()] * draw(st.integers(0, 4))
        if messages[-1].role == "assistant" or draw(st.booleans()):
            messages.append(user())
    assert order_fault(messages) is None
    return talk(*messages, tools=[{"name": "f"}])


@settings(deadline=None)
@given(turns())
def test_calls_and_results_are_counted_turn_by_turn(conversation: Conversation) -> None:
    """Against a regular expression over one letter for each call and message."""
    letters = "".join("c" * len(m.calls) + m.role[0] for m in conversation.messages)
    counts = [(said.count("c"), len(results)) for said, results in re.findall("([ca]+)(o*)", letters)]
    found = [one for one in lint_conversation(conversation, MARKS) if one.rule != "empty-answer"]
    told = Counter((one.severity, one.rule) for one in found)
    assert told == Counter(
        {
            ("error", "orphan-observation"): sum(max(0, o - c) for c, o in counts if c),
            ("warning", "orphan-observation"): sum(o for c, o in counts if not c),
            ("warning", "unanswered-call"): sum(max(0, c - o) for c, o in counts[:-1]),
        }
    )


ODD = st.text(max_size=12) | st.sampled_from(
    ["[INST]", "<s>", "<tool_call>", "{", '{"name": 1, "arguments": 2}']
)
ANY = st.recursive(
    st.none() | st.integers() | ODD, lambda inner: st.lists(inner) | st.dictionaries(ODD, inner)
)
CALLS = st.builds(Call.of, ODD, st.dictionaries(ODD, ANY, max_size=3))
ANSWERS = st.builds(Message, st.just("assistant"), ODD, calls=st.lists(CALLS, max_size=2).map(tuple))
RESULTS = st.builds(Message, st.just("observation"), ODD, name=st.none() | ODD)


@settings(deadline=None, max_examples=50)
@given(
    ODD,
    st.lists(ANSWERS | RESULTS, max_size=5),
    st.lists(ANY | st.builds(dict, name=ODD, parameters=ANY), max_size=3),
)
def test_whatever_is_said_is_told_in_one_line(text: str, said: list[Message], tools: list[object]) -> None:
    conversation = talk(user(text), says(text), *said, tools=tools)
    for one in lint_conversation(conversation, MARKS):
        assert one.rule in RULES
        assert one.message.isprintable()
        assert len(one.message) < 600


def test_every_rule_is_known() -> None:
    used = {rule for _, expected in TABLE.values() for _, rule, _ in expected}
    of_rows = {"unreadable", "role-order", "unwritable", "no-targets", "too-long", "duplicate"}
    assert used | of_rows == RULES.keys()
