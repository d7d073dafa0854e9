"""ChatGLM3's calls: read by hand as Python itself would read them, and never run.

`CALL_EXAMPLES=100000 pytest tests/unit/test_pythonic_calls.py` tries as many conversations and hostile replies.
"""

from __future__ import annotations

import re
from unicodedata import is_normalized

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_literals import python_reads
from test_tagged_calls import REPLIES, audited, calls, hostile_replies, nested, often, texts, written

from tokenization.conversation import INTERPRETER, Call, Conversation, Message, canonical
from tokenization.grammar.pythonic import call_parts, parse_message
from tokenization.grammar.reply import DEEPEST, LONGEST_CALL, CallError, Said
from tokenization.segments import Control, ControlIds, RenderError, Text
from tokenization.templates.chatglm3 import ASSISTANT, CHATGLM3, ROLES


def message(call: Call) -> str:
    """The message of a call as the template writes it."""
    return f" {call.name}\n {written(call_parts(call, True))}"


# What is read.

READ: list[tuple[str, Said]] = [
    ("", ""),
    (" \n", ""),
    ("\nHello.", "Hello."),
    (" \n Hello.", "Hello."),
    (" \n  Hello. \n\n", " Hello. \n\n"),
    (" \n ```python\ntool_call(a=1)\n```", "```python\ntool_call(a=1)\n```"),
    (
        " get_weather\n ```python\ntool_call(city='北京', unit='celsius')\n```",
        Call("get_weather", '{"city": "北京", "unit": "celsius"}'),
    ),
    ("text-to-speech\n```python\ntool_call()\n```\n", Call("text-to-speech", "{}")),
    ("f\n```pythontool_call(a=1)```", Call("f", '{"a": 1}')),
    ("f\n\n ```python\n\n\ttool_call (\n\ta = 1 ,\n)\n\n``` \r\n", Call("f", '{"a": 1}')),
    ("f\ntool_call(a=1) \n", Call("f", '{"a": 1}')),
    ("f\ntool_call(a='```')", Call("f", '{"a": "```"}')),
    ("f\ntool_call(**{'a b': 1, 'class': None}, c=[], )", Call("f", '{"a b": 1, "class": null, "c": []}')),
    ("f\ntool_call(b=1, **{}, a=2, ** { })", Call("f", '{"b": 1, "a": 2}')),
    ("f\ntool_call(class=1, 查询=2, ﬁ=3)", Call("f", '{"class": 1, "查询": 2, "ﬁ": 3}')),
    (
        "f\ntool_call(a=[True, False, None, true, false, null])",
        Call("f", '{"a": [true, false, null, true, false, null]}'),
    ),
    (
        "f\ntool_call(a=[0, -0, 00, -7, 1.5, 1e3, 1., .5, -.5, 01.5, 1E-2, -0.0, 1e22])",
        Call("f", '{"a": [0, 0, 0, -7, 1.5, 1000.0, 1.0, 0.5, -0.5, 1.5, 0.01, -0.0, 1e+22]}'),
    ),
    (
        r"""f
tool_call(a='"\'\"\\', b="'\a\b\f\n\r\t\v\0", c='\x41\101\u5317\U0001f642', d='\q\8\ ')""",
        Call(
            "f",
            r"""{"a": "\"'\"\\", "b": "'\u0007\b\f\n\r\t\u000b\u0000", "c": "AA北🙂", "d": "\\q\\8\\ "}""",
        ),
    ),
    ("f\ntool_call(a='x\\\ny', b='\\\r\n', c='\\777')", Call("f", '{"a": "xy", "b": "", "c": "ǿ"}')),
    ("f\ntool_call(a={'k': {'l': [{}, [],],},})", Call("f", '{"a": {"k": {"l": [{}, []]}}}')),
    (" interpreter\n ```python\nprint(1)\n```", Call(INTERPRETER, '{"code": "print(1)"}')),
    ("interpreter\n```python\n\n```", Call(INTERPRETER, '{"code": ""}')),
    ("interpreter\n```python\n```", Call(INTERPRETER, '{"code": ""}')),
    ("interpreter\n```pythonx = 1``` \n", Call(INTERPRETER, '{"code": "x = 1"}')),
    ("interpreter\n```python\na\n```\nb\n```", Call(INTERPRETER, '{"code": "a\\n```\\nb"}')),
    ("interpreter\n```python\n\n a \n\n```", Call(INTERPRETER, '{"code": "\\n a \\n"}')),
]


@pytest.mark.parametrize(("text", "said"), READ)
def test_read(text: str, said: Said) -> None:
    assert parse_message(text) == said


def block(arguments: str) -> str:
    return f"f\n```python\ntool_call({arguments})\n```"


REFUSED = [
    ("f\nHello.", "tool_call(…) in a block"),
    ("f\n```python\nprint(1)\n```", "tool_call(…) in a block"),
    ("f\n```json\ntool_call(a=1)\n```", "tool_call(…) in a block"),
    ("f\n```python\nf(a=1)\n```", "tool_call(…) in a block"),
    ("f\n```python\ntool_call(a=1)\nimport os\n```", "``` after the call is missing before 'import os"),
    ("f\n```python\ntool_call(a=1); x\n```", "``` after the call"),
    ("f\n```python\ntool_call(a=1)\n```\nDone.", "text follows the call: 'Done.'"),
    ("f\n```python\ntool_call(a=1)\n``` ```", "text follows the call"),
    ("f\ntool_call(a=1)\n```", "text follows the call"),
    ("f\ntool_call(a=1)(b=2)", "text follows the call: '(b=2)'"),
    ("interpreter\nprint(1)", "a block that ```python begins"),
    ("interpreter\nnul", "a block that ```python begins"),
    ("interpreter\n```python\nprint(1)\n```\nDone.", "text follows the block"),
    ("interpreter\n```python\nprint('\ud83d')\n```", "half a surrogate pair"),
    (block("'Oslo'"), "name=value"),
    (block("{'a': 1}"), "name=value"),
    (block("1, a=2"), "name=value"),
    (block("*[1]"), "name=value"),
    (block("a"), "name=value"),
    (block("a==1"), "a string, number"),
    (block("1a=1"), "name=value"),
    (block("a.b=1"), "name=value"),
    (block("a[0]=1"), "name=value"),
    (block(","), "name=value"),
    (block("a=1,,"), "name=value"),
    (block("a=1 b=2"), "a comma or )"),
    (block("**a"), "a dict is missing"),
    (block("**[1]"), "a dict is missing"),
    (block("a=1, a=1"), "'a' is given twice"),
    (block("a=1, **{'a': 2}"), "'a' is given twice"),
    (block("a={'b': 1, 'b': 1}"), "'b' is given twice"),
    (block("a=b"), "a string, number, True, False, None, list or dict is missing before 'b)"),
    (block("a=open('x')"), "missing before \"open('x')"),
    (block("a=__import__('os').system('x')"), 'missing before "__import__('),
    (block("a=[x for x in y]"), "missing before 'x for"),
    (block("a=[1 for x in y]"), "a comma or ]"),
    (block("a=lambda: 1"), "missing before 'lambda"),
    (block("a=1 + 2"), "a comma or ) is missing before '+"),
    (block("a=1 if x else 2"), "a comma or )"),
    (block("a=+1"), "missing before '+1"),
    (block("a=--1"), "missing before '--1"),
    (block("a=- 1"), "missing before '- 1"),
    (block("a=not True"), "missing before 'not"),
    (block("a=(1, 2)"), "missing before '(1"),
    (block("a=('x')"), "missing before \"('x"),
    (block("a=()"), "missing before '()"),
    (block("a={1, 2}"), "a string as a key"),
    (block("a={'x'}"), "a colon"),
    (block("a={1: 2}"), "a string as a key"),
    (block("a={None: 2}"), "a string as a key"),
    (block("a={**{'x': 1}}"), "a string as a key"),
    (block("a={,}"), "a string as a key"),
    (block("a=[,]"), "a string, number"),
    (block("a=[1}"), "a comma or ]"),
    (block("a=b'x'"), "missing before \"b'x"),
    (block("a=f'{x}'"), "missing before \"f'"),
    (block("a=r'x'"), "missing before \"r'"),
    (block("a='x' 'y'"), "a comma or )"),
    (block("a='''x'''"), "a comma or )"),
    (block("a='x\ny'"), "a string, number"),
    (block("a='x\ry'"), "a string, number"),
    (block("a='x"), "a string, number"),
    (block("a=1j"), "a comma or )"),
    (block("a=0x10"), "a comma or )"),
    (block("a=1_000"), "a comma or )"),
    (block("a=007"), "missing before '007"),
    (block("a=1.2.3"), "a comma or )"),
    (block("a=..."), "missing before '..."),
    (block("a=１"), "missing before '１"),
    (block("a=nan"), "missing before 'nan"),
    (block("a=1e999"), "1e999 is beyond a float's range"),
    (block("a=[-1e999]"), "-1e999 is beyond a float's range"),
    (block(f"a={'9' * 4301}"), "an integer has 4301 digits"),
    (block("a=1 # one"), "a comma or )"),
    (block("a=\\\n1"), "a string, number"),
    (block(r"a='\x4'"), r"\x in a string"),
    (block(r"a='\u12'"), r"\u in a string"),
    (block(r"a='\U0011'"), r"\U in a string"),
    (block(r"a='\U00110000'"), r"\U00110000 is no character"),
    (block(r"a='\N{BULLET}'"), r"\N in a string"),
    (block(r"a='\ud83d'"), "half a surrogate pair"),
    (block(r"a='\ud83d\ude42'"), "half a surrogate pair"),
    (block(r"a={'\udc00': 1}"), "half a surrogate pair"),
    (block("a='\ud83d'"), "half a surrogate pair"),
    ("\udc00\ntool_call()", "half a surrogate pair"),
    (block(f"a={nested(DEEPEST + 1)}"), f"deeper than {DEEPEST} levels"),
    (block(f"**{{'a': {nested(DEEPEST + 1)}}}"), f"deeper than {DEEPEST} levels"),
    (block("a=" + "[" * 50_000), f"deeper than {DEEPEST} levels"),
    ("f\n" + "x" * LONGEST_CALL, f"at most {LONGEST_CALL} are read"),
]


@pytest.mark.parametrize(("text", "words"), REFUSED)
def test_refused(text: str, words: str) -> None:
    with pytest.raises(CallError, match=re.escape(words)) as caught:
        parse_message(text)
    assert not caught.value.unfinished
    assert len(str(caught.value)) < 200
    assert "\n" not in str(caught.value)


AWKWARD = {"a\\": [True, False, None, -1.5e-7, 1e22, {"é\x00": "x\"'\\\U0001f642\x7f"}], "": {}, "b": []}
COMPLETE = [
    Call.of("get_weather", {"city": "it's", "days": [1, -2.5e-9, None, True], "more": {}}),
    Call.of("查询", AWKWARD),
    Call.of(INTERPRETER, {"code": "for i in range(3):\n\n    print('``')\n"}),
]


@pytest.mark.parametrize("call", COMPLETE)
def test_cut_anywhere_a_call_is_unfinished(call: Call) -> None:
    text = message(call)
    assert parse_message(text) == call
    assert parse_message(text[:1]) == ""
    for length in range(2, len(text)):
        with pytest.raises(CallError) as caught:
            parse_message(text[:length])
        assert caught.value.unfinished, text[:length]


@pytest.mark.parametrize(
    "arguments", ["a = true", "a=-.5e+10 , b={ 'x' : null }", r"**{'a': '\x41\u5317\n'}"]
)
def test_cut_anywhere_a_bare_call_is_unfinished(arguments: str) -> None:
    text = f"f\ntool_call({arguments})"
    assert isinstance(parse_message(text), Call)
    for length in range(1, len(text)):
        with pytest.raises(CallError) as caught:
            parse_message(text[:length])
        assert caught.value.unfinished, text[:length]


# What is written is read back.

programs = st.text(st.sampled_from("`\n \t\r\fx'\\"), max_size=20) | texts
written_calls = st.one_of(
    calls.filter(lambda call: "\n" not in call.name and call.name != INTERPRETER),
    programs.map(lambda code: Call.of(INTERPRETER, {"code": code})),
)

WRITTEN: list[tuple[Call, str]] = [
    (Call("f", "{}"), " f\n ```python\ntool_call()\n```"),
    (
        Call("get_weather", '{"city": "北京", "unit_2": [1, -0.0, 1e+22, true, null]}'),
        " get_weather\n ```python\ntool_call(city='北京', unit_2=[1, -0.0, 1e+22, True, None])\n```",
    ),
    (
        Call("f", '{"b": "it\'s", "a": {"\\n": {}}}'),
        " f\n ```python\ntool_call(b=\"it's\", a={'\\n': {}})\n```",
    ),
    (Call("f", '{"a": 1, "b c": 2}'), " f\n ```python\ntool_call(**{'a': 1, 'b c': 2})\n```"),
    (Call("f", '{"class": 1}'), " f\n ```python\ntool_call(**{'class': 1})\n```"),
    (Call("f", '{"": 1}'), " f\n ```python\ntool_call(**{'': 1})\n```"),
    (Call(INTERPRETER, '{"code": "print(1)\\n"}'), " interpreter\n ```python\nprint(1)\n\n```"),
]


@pytest.mark.parametrize(("call", "text"), WRITTEN)
def test_what_is_written(call: Call, text: str) -> None:
    assert message(call) == text
    assert parse_message(text) == call


@often
@given(written_calls)
def test_a_call_is_read_back(call: Call) -> None:
    assert parse_message(message(call)) == call


@often
@given(texts)
def test_a_text_is_read_back(text: str) -> None:
    assert parse_message(f" \n {text}" if text else " \n") == text


CONTROL = ControlIds(1, 2, {role: id for id, role in enumerate(ROLES, 3)})


@often
@given(st.lists(st.tuples(texts, st.lists(written_calls, max_size=2)), min_size=1, max_size=3))
def test_a_turn_is_read_back(turn: list[tuple[str, list[Call]]]) -> None:
    """As the template writes it, and its parts as they stand between its role tokens."""
    messages = [Message("assistant", text, calls=tuple(made)) for text, made in turn]
    segments = CHATGLM3.render(Conversation("c", (Message("user", "?"), *messages)), CONTROL)
    begun = [at for at, s in enumerate(segments) if isinstance(s, Control) and s.id == CONTROL[ASSISTANT]]
    parts = [segment.text for at in begun if isinstance(segment := segments[at + 1], Text)]
    expected = [said for text, made in turn for said in (text, *made) if said != ""]
    assert CHATGLM3.parse(parts) == expected


UNWRITABLE = [
    (Call(""), "a call has no name"),
    (Call("a\nb"), "holds a line end"),
    (Call("f", '{"a": "\ud83d"}'), "half a surrogate pair"),
    (Call.of("f", {"a": nested(DEEPEST + 1)}), f"deeper than {DEEPEST} levels"),
    (Call.of(INTERPRETER, {}), "has one argument"),
    (Call.of(INTERPRETER, {"code": 1}), "has one argument"),
    (Call.of(INTERPRETER, {"code": "x", "timeout": 1}), "has one argument"),
]


@pytest.mark.parametrize(("call", "words"), UNWRITABLE)
def test_not_written(call: Call, words: str) -> None:
    with pytest.raises(RenderError, match=words):
        call_parts(call, True)


@pytest.mark.parametrize("number", [10**4299, 1 - 10**4300])
def test_longest_integers(number: int) -> None:
    call = Call.of("f", {"a": number})
    assert parse_message(message(call)) == call


@pytest.mark.parametrize("key", ["a", "a b"])
def test_deepest_arguments(key: str) -> None:
    call = Call.of("f", {key: nested(DEEPEST)})
    assert parse_message(message(call)) == call


@pytest.mark.parametrize(("name", "key"), [("f", "a"), ("f" * 1000, "a b"), (INTERPRETER, "code")])
def test_longest_call(name: str, key: str) -> None:
    fixed = len(name) + len(written(call_parts(Call.of(name, {key: ""}), True)))
    call = Call.of(name, {key: "x" * (LONGEST_CALL - fixed)})
    assert parse_message(message(call)) == call
    with pytest.raises(RenderError, match=f"{LONGEST_CALL + 1} characters"):
        call_parts(Call.of(name, {key: "x" * (LONGEST_CALL - fixed + 1)}), True)
    with pytest.raises(CallError, match=f"{LONGEST_CALL + 1} characters"):
        parse_message(message(call) + "\n")


# What models may write.

VALID = [text for text, _ in READ if text.strip()] + [message(call) for call in COMPLETE]
TOKENS = [
    "```python\n",
    "```",
    "tool_call(",
    "tool_call",
    "a=",
    "b =",
    "'",
    '"',
    "\\",
    "\\x4",
    "\\u12",
    "\\ud83d",
    "\\\n",
]
TOKENS += [
    "[",
    "]",
    "{",
    "}",
    "(",
    ")",
    "'a': ",
    ",",
    "=",
    "**",
    "*",
    " ",
    "\n",
    "1",
    "-",
    ".5",
    "e9",
    "True",
    "nul",
    "nan",
]
TOKENS += [
    "__import__('os')",
    "lambda: ",
    "b'x'",
    "f'{a}'",
    "\ud83d",
    "\x00",
    "🙂",
    "+",
    "#",
    "interpreter\n",
    "f\n",
]
NOT_PYTHON = re.compile(r"\b(?:true|false|null|class)\b|\x00")


def as_python(said: Call, text: str) -> bool:
    """Is this a call that Python reads too, and in the same way? It writes names anew, in their NFKC form."""
    return said.name != INTERPRETER and not NOT_PYTHON.search(text) and is_normalized("NFKC", text)


def test_hostile_replies() -> None:
    outcomes = {"text": 0, "call": 0, "refused": 0, "unfinished": 0, "as Python": 0}
    for text in hostile_replies(REPLIES, VALID, TOKENS):
        said, events = audited(parse_message, text)
        assert events == [], text
        if isinstance(said, CallError):
            outcomes["unfinished" if said.unfinished else "refused"] += 1
        elif isinstance(said, Call):
            outcomes["call"] += 1
            assert parse_message(message(said)) == said
            if as_python(said, text):
                source = text.partition("\n")[2].strip().removeprefix("```python").removesuffix("```")
                assert canonical(python_reads(source.strip())) == said.arguments, text
                outcomes["as Python"] += 1
        else:
            outcomes["text"] += 1
            assert isinstance(said, str)
    print(outcomes)
    assert min(outcomes.values()) > REPLIES // 50  # the generator is worth something


HEAD = "f\n```python\ntool_call(a="
LARGE = [
    f"{HEAD}\0[",
    f"{HEAD}\0{{'a':",
    f"{HEAD}[\0[],",
    f"{HEAD}[\0.1,",
    f"{HEAD}[\0'',",
    f"{HEAD}\0001",
    f"{HEAD}1.\0000",
    f"{HEAD}1e\0009",
    f"{HEAD}\0-",
    f"{HEAD}\0 ",
    f"{HEAD}'\0a",
    f"{HEAD}'\0\\n",
    f"{HEAD}'\0\\",
    f"{HEAD}\0x",
    f"{HEAD}'\0🙂",
    "f\n\0`",
    "f\n\0\n",
    "f\n```python\ntool_call(\0**{},",
    "interpreter\n```python\n\0\n``` ",
    "interpreter\n```python\n\0\n",
    "\0a",
    "\n\0a\n",
]


@pytest.mark.parametrize("size", [LONGEST_CALL, 10**6])
@pytest.mark.parametrize("text", LARGE)
def test_long_messages(text: str, size: int) -> None:
    """What follows the NUL over and over. In linear time, or the test would not end."""
    head, _, run = text.rpartition("\0")
    said, events = audited(parse_message, head + run * ((size - len(head)) // len(run)))
    assert isinstance(said, str | Call | CallError)
    assert events == []
