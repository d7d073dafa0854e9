"""`agenttune preview` as it is typed: which samples and rows, in which order, in three formats, without torch."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from configs.load import load_config
from launch.cli import main
from trainer.data.open import open_stream

ROOT = Path(__file__).resolve().parents[2]
TOKENIZER = ROOT / "configs" / "demo" / "tokenizer"
BOS, EOS = 1, 2
CONFIG = f"""
run: {{output_dir: run, seed: 3}}
model: {{path: {TOKENIZER}}}
data:
  sequence_length: 64
  pack_window: 4
  eta: 0.5
  sources:
    - {{name: calls, path: "calls-*.jsonl", role: agent}}
    - {{name: chat, path: chat.json, role: general}}
"""


def turn(role: str, value: str, loss: bool | None = None) -> dict[str, Any]:
    return {"from": role, "value": value} | ({} if loss is None else {"loss": loss})


# As they stand in the files; a row without an id is named by its number in the source.
CALLS = [
    [turn("human", "Add 2 and 3.", True), turn("gpt", "Action: add")],
    [
        turn("human", "What is the time?"),
        turn("gpt", "Ok.", False),
        turn("human", "Now."),
        turn("gpt", "Noon."),
    ],
    [turn("human", "Which tool?"), turn("gpt", "A long answer that says it again and again. " * 9)],
    [turn("human", "And now?"), turn("gpt", "Stop here.")],
]
CHAT = [
    [turn("human", f"Say {n}."), turn("gpt", f"{n} it is")] for n in ("one", "two", "three", "four", "five")
]
CALL_IDS = ["a", "1", "same", "same"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    rows = [{"conversations": c, "id": id} for c, id in zip(CALLS, CALL_IDS, strict=True)]
    del rows[1]["id"]
    (tmp_path / "calls-2.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[2:]))
    (tmp_path / "calls-1.jsonl").write_text("".join(json.dumps(row) + "\n\n" for row in rows[:2]))
    (tmp_path / "chat.json").write_text(json.dumps([{"conversations": c} for c in CHAT]))
    (tmp_path / "config.yaml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NO_COLOR", raising=False)
    return tmp_path


@pytest.fixture
def preview(capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*arguments: str) -> str:
        assert main(["preview", "config.yaml", *arguments]) == 0
        captured = capsys.readouterr()
        assert captured.err == ""
        return captured.out

    return run


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Any:
    def run(code: int, *arguments: str) -> str:
        assert main(["preview", "config.yaml", *arguments]) == code
        captured = capsys.readouterr()
        assert captured.out == ""
        return captured.err

    return run


def objects(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def expected() -> list[dict[str, Any]]:
    """Every sample, by the template's rule written out: a string, a control token, their labels."""
    tokenizer = Tokenizer.from_file(str(TOKENIZER / "tokenizer.json"))

    def encode(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False).ids

    samples: list[dict[str, Any]] = []
    named = [*(("calls", id) for id in CALL_IDS), *(("chat", str(n)) for n in range(5))]
    for (source, id), conversation in zip(named, [*CALLS, *CHAT], strict=True):
        tokens: list[int] = []
        labels: list[int] = []
        for message in conversation:
            text = str(message["value"]).strip()
            if message["from"] == "human":
                ids = [BOS, *encode(f"[INST] {text} [/INST]")]
                before, after = len(encode("[INST]")), len(encode("[/INST]"))
                inside = ids[1 + before : -after] if message.get("loss") else []
                marks = [-100] * (1 + before) + inside + [-100] * after
                marks = marks if inside else [-100] * len(ids)
            else:
                ids = [*encode(f"{text} "), EOS]
                marks = [-100] * len(ids) if message.get("loss") is False else ids
            tokens += ids
            labels += marks
        samples.append({"source": source, "id": id, "tokens": tokens, "labels": labels})
    return samples


def test_json_has_every_sample_in_order(preview) -> None:
    assert objects(preview("--format", "json")) == expected()


@pytest.mark.parametrize("count", [1, 5, 99])
def test_count_goes_through_all_sources(preview, count: int) -> None:
    assert objects(preview("--format", "json", "--count", str(count))) == expected()[:count]


def test_bad_rows_are_left_out_and_told_where_training_does(capsys: pytest.CaptureFixture[str]) -> None:
    wanted = expected()
    bad = sorted(Path().glob("calls-*.jsonl"))[0]
    bad.write_text(bad.read_text().rstrip("\n") + '\n{"messages": []}\n')
    assert main(["preview", "config.yaml", "--format", "json"]) == 3
    capsys.readouterr()
    assert main(["preview", "config.yaml", "--format", "json", "data.on_error=skip"]) == 0
    captured = capsys.readouterr()
    assert objects(captured.out) == wanted
    assert captured.err.startswith(f"left out: {bad}:")


def test_options_and_overrides_in_any_order(preview) -> None:
    assert preview("--count", "2", "data.template=llama2", "--format", "json", "run.seed=5").count("\n") == 2


def test_rows_are_those_of_training(preview) -> None:
    rows = objects(preview("--rows", "2:6", "--format", "json"))
    stream = open_stream(load_config("config.yaml"))
    for row, trained in zip(rows, [next(stream) for _ in range(6)][2:], strict=True):
        assert row["row"] == trained.index
        for key in ("tokens", "labels", "positions"):
            assert row[key] == getattr(trained, key).tolist()


def test_rows_hold_the_samples_whole_and_apart(preview) -> None:
    known = expected()
    seen: set[str] = set()
    for row in objects(preview("--rows", "0:8", "--format", "json")):
        assert list(row) == ["row", "samples", "tokens", "labels", "positions"]
        at = 0
        for name in row["samples"]:
            fitting = [
                s
                for s in known
                if f"{s['source']}:{s['id']}" == name
                and row["tokens"][at : at + len(s["tokens"])] == s["tokens"]
            ]
            (sample,) = fitting
            size = len(sample["tokens"])
            assert row["labels"][at : at + size] == sample["labels"]
            assert row["positions"][at : at + size] == list(range(size))
            at += size
            seen.add(name)
        assert row["labels"][at:] == [-100] * (64 - at)
        assert row["positions"][at:] == list(range(64 - at))
    assert len(seen) == 8  # nine samples: one has no turn that fits


def test_terminal_marks_targets_and_sums_up(preview) -> None:
    shown = preview("--count", "5")
    first = expected()[:5]
    assert "\x1b" not in shown
    assert "<s> [INST]⟦ Add 2 and 3.⟧ [/INST]⟦ Action: add ⟧⟦</s>⟧\n" in shown
    assert "[/INST] Ok. </s><s> [INST] Now. [/INST]⟦ Noon. ⟧⟦</s>⟧\n" in shown
    for source, part in (("calls", first[:4]), ("chat", first[4:]), ("total", first)):
        tokens = sum(len(s["tokens"]) for s in part)
        targets = sum(label != -100 for s in part for label in s["labels"])
        (line,) = (line for line in shown.splitlines() if line.startswith(f"{source} "))
        numbers = re.findall(r"(\S+) +(\d+)%", line.removeprefix(source))
        assert [number for number, _ in numbers] == [str(len(part)), str(tokens), str(targets)]
        whole = sum(len(s["tokens"]) for s in first)
        assert abs(int(numbers[1][1]) - 100 * tokens / whole) <= 0.5
    assert shown.endswith(
        "Longer than data.sequence_length=64: 1 of them; "
        "training keeps their first turns, as far as they fit (data.too_long=truncate).\n"
    )


def test_without_count_a_person_sees_some_of_each_source(preview) -> None:
    headings = re.findall(r"^(\w+:\w+)  tokens \d+  targets \d+", preview(), re.MULTILINE)
    assert headings == ["calls:a", "calls:1", "calls:same", "chat:0", "chat:1", "chat:2"]


def test_rows_are_readable(preview) -> None:
    shown = preview("--rows", "0:8")
    rows = objects(preview("--rows", "0:8", "--format", "json"))
    for row in rows:
        heading = re.search(rf"^━━ row {row['row']}  samples (\d+)  tokens (\d+) of 64", shown, re.MULTILINE)
        assert heading
        padding = 63 - max(
            at for at, label in enumerate(row["labels"]) if label != -100
        )  # all end on a target
        assert (int(heading[1]), int(heading[2])) == (len(row["samples"]), 64 - padding)
    named = re.findall(r"^(?:━━ row (\d+)|(\w+:\w+)  tokens)", shown, re.MULTILINE)
    in_order = [
        item for row in rows for item in ((str(row["row"]), ""), *(("", name) for name in row["samples"]))
    ]
    assert named == in_order
    for text in ("⟦ Add 2 and 3.⟧", "⟦ Stop here. ⟧⟦</s>⟧", "Ok. </s><s> [INST] Now. [/INST]⟦ Noon. ⟧"):
        assert text in shown


def test_rows_show_a_sample_as_it_was_cut(preview, folder: Path) -> None:
    answer = turn("gpt", "It is said again and again and again and again. ")
    cut = [turn("human", "Go."), answer, turn("human", "More."), answer, turn("human", "More."), answer]
    (folder / "calls-1.jsonl").write_text(json.dumps({"id": "cut", "conversations": cut}) + "\n")
    shown = preview("--rows", "0:4", "data.eta=1")
    whole, kept = (re.search(r"calls:cut  tokens (\d+).*turns (\d)", text) for text in (preview(), shown))
    assert whole
    assert kept
    assert (int(whole[1]) > 64, whole[2]) == (True, "3")
    assert int(kept[1]) <= 64
    assert int(kept[2]) < 3


def test_colours_on_a_terminal_alone(preview, monkeypatch: pytest.MonkeyPatch) -> None:
    for colour, no_color in ((True, ""), (False, "1")):
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        monkeypatch.setenv("NO_COLOR", no_color)
        for shown in (preview("--count", "1"), preview("--rows", "0:4", "data.eta=1")):
            # A trained user message is yellow, in a row too, which holds nothing but tokens and labels.
            assert ("\x1b[33m Add 2 and 3.\x1b[0m" in shown) is colour
            assert ("\x1b[1;31m</s>\x1b[0m" in shown) is colour
            assert ("\x1b" in shown) is colour


@pytest.mark.parametrize(("arguments", "heading"), [((), "chat:1"), (("--rows", "0:2"), "row 1  ")])
def test_html_is_one_page(preview, arguments: tuple[str, ...], heading: str) -> None:
    page = preview("--format", "html", *arguments)
    assert page.startswith("<!doctype html>")
    assert page.endswith("</html>\n")
    assert f"<h2>{heading}" in page


@pytest.mark.parametrize("rows", ["3", "3:3", "4:2", ":3", "-1:3", "1:2:3", ""])
def test_rows_that_are_none(refused, rows: str) -> None:
    line = refused(2, f"--rows={rows}")
    assert line.startswith(f"agenttune: --rows={rows}: must be A:B")
    assert line.count("\n") == 1


@pytest.mark.parametrize(
    ("code", "argument", "said"),
    [
        (
            2,
            "model.path=runs/none",
            "model.path=runs/none: no such folder; download the model, or make one: agent",
        ),
        (2, "model.path=.", "model.path=.: . holds neither tokenizer.json nor tokenizer.model; copy"),
        (2, "--count=0", "--count=0: must be at least 1"),
        (2, "data.sources=[]", "at least 1 source needed"),
        (2, "data.sequence_length=0", "data.sequence_length=0: must be at least 1"),
        (3, "data.sources.1.path=calls-1.jsonl", ""),
    ],
)
def test_mistakes_are_one_line(refused, folder: Path, code: int, argument: str, said: str) -> None:
    if code == 3:
        (folder / "calls-1.jsonl").write_text('{"text": "no conversation"}\n')
        said = "calls-1.jsonl:1: row fits no format, its keys are ['text']"
    line = refused(code, argument, "--format", "json")
    assert said in line
    assert line.count("\n") == 1


def test_torch_is_not_imported() -> None:
    script = (
        "import sys; from launch.cli import main\n"
        "for extra in ([], ['--rows', '0:2'], ['--format', 'json'], ['--rows', '0:2', '--format', 'json']):\n"
        "    assert main(['preview', 'config.yaml', *extra]) == 0\n"
        "sys.exit(bool({'torch', 'transformers', 'deepspeed'} & set(sys.modules)))"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ended = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_reader_that_has_seen_enough_ends_it_silently() -> None:
    command = [sys.executable, "-m", "launch.cli", "preview", "config.yaml", "--rows", "0:1000000000"]
    process = subprocess.Popen(
        [*command, "--format", "json"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stderr
    try:
        assert json.loads(process.stdout.readline())["row"] == 0
        process.stdout.close()
        process.wait(timeout=30)
        assert process.stderr.read() == ""
    finally:
        process.kill()
