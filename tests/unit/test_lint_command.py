"""`agenttune lint` as it is typed: planted faults with file and line, in both formats, counted, with its exit code."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from configs.load import load_config
from launch.cli import main
from trainer.data.open import open_stream

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "configs" / "demo"
CONFIG = f"""
run: {{output_dir: run}}
model: {{path: {DEMO / "tokenizer"}}}
data:
  sequence_length: 1024
  template: llama2
  sources:
    - {{name: calls, path: "calls-*.jsonl", role: agent}}
    - {{name: chat, path: chat.json, role: general}}
"""
TOOL = {
    "name": "add",
    "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
}
HALF = {"name": "half", "parameters": {"type": "dict", "properties": {"of": {"type": "float"}}}}


def row(*messages: tuple[str, str], **others: Any) -> dict[str, Any]:
    return others | {"conversations": [{"from": role, "value": value} for role, value in messages]}


def called(name: str, **arguments: Any) -> tuple[str, str]:
    return "function_call", json.dumps({"name": name, "arguments": arguments})


# Each line of the files and what must be found there: severity, rule and words of the message.
CALLS_1: list[tuple[str, list[tuple[str, str, str]]]] = [
    (
        json.dumps(
            row(("human", "Add."), called("add", a=1), ("observation", "1"), ("gpt", "1"), tools=[TOOL])
        ),
        [],
    ),
    ("", []),
    (
        json.dumps(
            row(
                ("human", "Add."),
                called("ad", a=1),
                ("observation", "1"),
                ("gpt", "1"),
                tools=[TOOL],
                id="two",
            )
        ),
        [("error", "unknown-tool", "message 2 calls 'ad', which is not among the tools (add)")],
    ),
    ('{"conversations": [', [("error", "unreadable", "no JSON")]),
    ('{"text": "no conversation"}', [("error", "unreadable", "its keys are ['text']")]),
    (
        json.dumps(row(("human", "a"), ("human", "b"))),
        [("error", "role-order", "messages 1 and 2 are both the user's")],
    ),
    (json.dumps(row(("gpt", "a"))), [("error", "role-order", "message 1 is the assistant's")]),
    (
        json.dumps(
            row(("human", "Add."), called("add", a="1"), ("observation", "1"), ("gpt", "1"), tools=[TOOL])
        ),
        [("error", "arguments", "message 2 calls 'add': $.a: '1' is not of type 'integer'")],
    ),
]
CALLS_2: list[tuple[str, list[tuple[str, str, str]]]] = [
    (
        json.dumps(row(("human", "Say [INST]."), ("gpt", "<|user|>"), id="marks")),
        [
            ("error", "control-text", "message 1 holds [INST]"),
            ("warning", "control-text", "message 2 holds <|user|>"),
        ],
    ),
    (
        json.dumps(row(("human", "<s>"), ("gpt", ""))),
        [("warning", "control-text", "<s>"), ("warning", "empty-answer", "")],
    ),
    (
        json.dumps(
            row(("human", "Halve."), called("half", by=1), ("observation", "1"), ("gpt", "1"), tools=[HALF])
        ),
        [
            ("warning", "schema", "tool 'half' are no JSON schema: $.type: 'dict'"),
            ("error", "arguments", "message 2 calls 'half': $: 'by' is none of its arguments (of)"),
        ],
    ),
    # The schema is told of once.
    (
        json.dumps(
            row(("human", "Halve."), called("half", of=1), ("observation", "1"), ("gpt", "1"), tools=[HALF])
        ),
        [],
    ),
]
CHAT: list[tuple[dict[str, Any], list[tuple[str, str, str]]]] = [
    (row(("human", "Hello."), ("gpt", "Hello.")), []),
    (
        row(("human", "Hello."), ("gpt", "Hello."), id="again"),
        [("warning", "duplicate", "chat.json:2 (row 1)")],
    ),
    (
        row(("human", "Long?"), ("gpt", "Yes, it is. " * 400)),
        [("warning", "too-long", "data.too_long=truncate leaves it out and loses ")],
    ),
    (row(("human", "Only a question.")), [("warning", "no-targets", "training leaves it out")]),
    (
        row(("human", "See."), ("gpt", "Look."), ("observation", "x"), ("gpt", "y")),
        [("warning", "orphan-observation", "message 3 is an observation")],
    ),
]
SAMPLES = {"calls": 6, "chat": 3}
"""Not of rows that are no conversation, hold the template's marks, have no answer or are too long."""
BAD = {"calls": 5, "chat": 0}
STRICT = (
    "5 bad row(s), data.on_error=strict: training does not start; mend them, "
    "or leave them out with data.on_error=skip"
)
WHOLE = [("calls-1.jsonl", line, None, found) for line, (_, found) in enumerate(CALLS_1, 1)]
WHOLE += [("calls-2.jsonl", line, None, found) for line, (_, found) in enumerate(CALLS_2, 1)]
WHOLE += [("chat.json", line + 1, line, found) for line, (_, found) in enumerate(CHAT, 1)]
EXPECTED = [(file, line, number, *one) for file, line, number, found in WHOLE for one in found]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "calls-1.jsonl").write_text("".join(f"{line}\n" for line, _ in CALLS_1))
    (tmp_path / "calls-2.jsonl").write_text("".join(f"{line}\n" for line, _ in CALLS_2))
    (tmp_path / "chat.json").write_text("[\n" + ",\n".join(json.dumps(row) for row, _ in CHAT) + "\n]\n")
    (tmp_path / "config.yaml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def lint(capsys: pytest.CaptureFixture[str]) -> Any:
    def run(code: int, *arguments: str) -> str:
        assert main(["lint", "config.yaml", *arguments]) == code
        captured = capsys.readouterr()
        assert captured.err == ""
        return captured.out

    return run


def test_every_fault_with_its_line_and_in_order(lint) -> None:
    lines = lint(1).split("\n\n")[0].splitlines()
    assert len(lines) == len(EXPECTED)
    for line, (file, number, place, severity, rule, words) in zip(lines, EXPECTED, strict=True):
        where = f"{file}:{number}" + (f" (row {place})" if place else "")
        assert line.startswith(f"{where}: {severity}: {rule}: ")
        assert words in line


def test_json_says_the_same(lint) -> None:
    *found, last = map(json.loads, lint(1, "--format", "json").splitlines())
    for one, (file, line, place, severity, rule, words) in zip(found, EXPECTED, strict=True):
        assert (one["file"], one["line"], one.get("row")) == (file, line, place)
        assert (one["severity"], one["rule"]) == (severity, rule)
        assert words in one["message"]
        assert one["source"] == ("chat" if file == "chat.json" else "calls")
    keys = ["file", "line", "source", "id", "severity", "rule", "message"]
    assert list(found[0]) == keys
    assert list(found[-1]) == [*keys[:2], "row", *keys[2:]]
    # A row without an id is named by its number in the source; one that cannot be read has no name.
    ids = [one["id"] for one in found]
    assert ids[:6] == ["two", None, None, None, None, "6"]
    assert ids[6:8] == ["marks", "marks"]
    assert ids[-1] == "4"

    def counted(name: str) -> dict[str, int]:
        severities = Counter(one[3] for one in EXPECTED if one[0].startswith(name))
        return {"errors": severities["error"], "warnings": severities["warning"]}

    sources = [
        {"source": name, "rows": rows, "samples": SAMPLES[name], "bad": BAD[name]} | counted(name)
        for name, rows in (("calls", 11), ("chat", 5))
    ]
    summary = last["summary"]
    assert summary["sources"] == sources
    assert {key: summary[key] for key in ("errors", "warnings")} == counted("")
    assert summary["training"] == {"stops": True, "told": [STRICT]}
    rules = [one[4] for one in EXPECTED]
    assert summary["rules"] == {rule: rules.count(rule) for rule in rules}


def test_the_summary_is_a_table(lint) -> None:
    _, rules, sources, training = lint(1).split("\n\n")
    assert re.search(r"^unreadable +2$", rules, re.MULTILINE)
    assert [line.split() for line in sources.splitlines()] == [
        ["source", "rows", "samples", "bad", "errors", "warnings"],
        ["calls", "11", "6", "5", "8", "4"],
        ["chat", "5", "3", "0", "0", "4"],
    ]
    assert training == f"error: {STRICT}\n"
    assert len({len(line) for line in sources.splitlines()}) == 1


def test_warnings_alone_are_no_failure(lint) -> None:
    chat = "[{name: chat, path: chat.json, role: general}]"
    assert "warning: duplicate" in lint(0, f"data.sources={chat}", "data.eta=0", "--format", "text")


def summary_of(out: str) -> dict[str, Any]:
    return json.loads(out.splitlines()[-1])["summary"]


def test_what_training_leaves_out_is_no_error(lint, folder: Path) -> None:
    """The findings of a bad row are warnings where data.on_error=skip; those of other rows stay what they were."""
    told = lint(1, "data.on_error=skip").split("\n\n")
    for line, (file, number, place, severity, rule, _) in zip(told[0].splitlines(), EXPECTED, strict=True):
        where = f"{file}:{number}" + (f" (row {place})" if place else "")
        skipped = severity == "error" and rule in ("unreadable", "role-order", "control-text")
        assert line.startswith(f"{where}: {'warning' if skipped else severity}: {rule}: ")
        assert line.endswith(" (training leaves the row out)") == skipped
    assert told[2].splitlines()[1].split() == ["calls", "11", "6", "5", "3", "9"]
    assert told[3] == (
        "5 bad row(s), data.on_error=skip: training leaves out each that it draws, "
        "data.max_bad_rows=100 allows so many\n"
    )

    lines = [line for line, found in CALLS_1 if not found or found[0][1] in ("unreadable", "role-order")]
    (folder / "calls-1.jsonl").write_text("\n".join(lines))
    (folder / "calls-2.jsonl").unlink()
    settings = ("data.on_error=skip", "--format", "json")
    summary = summary_of(lint(0, *settings))
    assert (summary["errors"], summary["training"]["stops"]) == (0, False)
    summary = summary_of(lint(1, *settings, "data.max_bad_rows=3"))
    said = "4 bad row(s), data.on_error=skip with data.max_bad_rows=3: training does not start; mend them, or set "
    assert summary["training"] == {"stops": True, "told": [said + "data.max_bad_rows=4"]}
    assert summary["errors"] == 1


def test_what_is_skipped_is_what_training_skips(lint, folder: Path) -> None:
    """The same rows as the stream leaves out, by file and line."""
    config = load_config("config.yaml", ["data.on_error=skip"])
    stream = open_stream(config)
    left_out: list[tuple[str, int | None]] = []
    while stream.seen(1) < 1:
        next(stream)
        left_out += [(row.file, row.line) for row in stream.take_bad_rows()]
    *found, _ = map(json.loads, lint(1, "data.on_error=skip", "--format", "json").splitlines())
    ours = [(one["file"], one["line"]) for one in found if "training leaves the row out" in one["message"]]
    assert sorted(set(ours)) == sorted((Path(file).name, line) for file, line in left_out)
    assert len(ours) == 5


def test_a_source_without_a_sample_stops_training(lint, folder: Path) -> None:
    (folder / "chat.json").write_text(json.dumps([row(("human", "Only a question."))]))
    (folder / "calls-1.jsonl").write_text(CALLS_1[0][0])
    (folder / "calls-2.jsonl").unlink()
    told = lint(1)
    assert "error: source 'chat': none of its 1 rows can be trained on, so training stops; mend it" in told
    assert "error: source" not in lint(0, "data.eta=1")  # it is never drawn


def test_settings_of_the_run_decide(lint) -> None:
    assert "error: control-text" not in lint(1, "data.control_text=neutralise")
    assert "too-long" not in lint(1, "data.sequence_length=4096")
    dropped = lint(1, "data.too_long=drop", "data.sequence_length=8")
    assert dropped.count("data.too_long=drop leaves it out") > 5
    # To ChatGLM3 [INST] is nothing; its own tokens are no error, since no text is encoded into one.
    assert "error: control-text" not in lint(1, "data.template=chatglm3")


def test_what_the_template_cannot_write(lint, folder: Path) -> None:
    messages = [
        ("human", "Run."),
        called("interpreter", code="1", timeout=3),
        ("observation", "1"),
        ("gpt", "1"),
    ]
    (folder / "calls-2.jsonl").write_text(json.dumps(row(*messages)) + "\n")
    assert "calls-2.jsonl:1: error: unwritable: " in lint(1, "data.template=chatglm3")
    assert "unwritable" not in lint(1, "data.template=chatml")


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([("system", "a")], "only a system message"),
        ([("gpt", "a")], "message 1 is the assistant's"),
        ([("system", "a"), ("gpt", "a")], "message 2 is the assistant's"),
        ([("human", "a"), ("gpt", "b"), ("system", "c")], "message 3 is a system message"),
        ([("human", "a"), ("gpt", "b"), ("human", "c"), ("human", "d")], "messages 3 and 4 are both"),
        ([("human", "a"), ("observation", "b")], "message 2 is an observation"),
    ],
)
def test_orders_that_are_no_conversation(
    lint, folder: Path, messages: list[tuple[str, str]], words: str
) -> None:
    (folder / "calls-1.jsonl").write_text(json.dumps(row(*messages)) + "\n")
    told = lint(1).splitlines()[0]
    assert told.startswith("calls-1.jsonl:1: error: role-order: ")
    assert words in told


def test_a_repeated_source_repeats_its_rows(lint) -> None:
    chat = ", ".join(f"{{name: {name}, path: chat.json, role: general}}" for name in ("a", "b"))
    told = lint(0, f"data.sources=[{chat}]", "data.eta=0").split("\n\n")[0]
    assert told.count("warning: duplicate: ") == 1 + len(CHAT)


@pytest.mark.parametrize("template", ["llama2", "chatglm3", "chatml"])
def test_shipped_data_has_no_faults(lint, template: str) -> None:
    sources = [f"{{name: {name}, path: {DEMO / name}.jsonl, role: {name}}}" for name in ("agent", "general")]
    told = lint(0, f"data.sources=[{', '.join(sources)}]", f"data.template={template}")
    assert [line.split() for line in told.splitlines()[1:]] == [
        ["agent", "400", "400", "0", "0", "0"],
        ["general", "600", "600", "0", "0", "0"],
    ]


@pytest.mark.parametrize(
    ("code", "argument", "said"),
    [
        (2, "model.path=runs/none", "model.path=runs/none: no such folder"),
        (2, "data.sources=[]", "at least 1 source needed"),
        (2, "--format=xml", "see `agenttune lint --help`"),
        (3, "data.sources.1.path=none.json", "no file matches path 'none.json'"),
        (3, "data.sources.1.path=broken.json", "broken.json:2 (row 2): no JSON"),
    ],
)
def test_mistakes_are_one_line(capsys, folder: Path, code: int, argument: str, said: str) -> None:
    (folder / "broken.json").write_text('[{"conversations": []},\n{"conversations": ]\n')
    assert main(["lint", "config.yaml", argument]) == code
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_no_bar_in_pipes_and_no_torch() -> None:
    script = (
        "import sys; from launch.cli import main\n"
        "assert main(['lint', 'config.yaml']) == 1\n"
        "sys.exit(bool({'torch', 'transformers', 'deepspeed'} & set(sys.modules)))"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ended = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("data.eta=1.5", "data.eta=1.5"),
        ("data.sources.1.role=agent", "general"),
        ("data.sources.1.name=calls", "rename"),
    ],
)
def test_settings_that_training_refuses_are_refused(
    override: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["lint", "config.yaml", override]) == 2
    assert said in capsys.readouterr().err
