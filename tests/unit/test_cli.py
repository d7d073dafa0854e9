"""The command's exit codes and its one line on stderr."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from types import ModuleType

import pytest

from configs.errors import ConfigError
from launch import cli
from tokenization.errors import DataError, Where


@pytest.fixture
def act(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[list[str]], int]], None]:
    """Makes `agenttune act` run a function."""

    def install(body: Callable[[list[str]], int]) -> None:
        module = ModuleType("act_for_test")
        module.main = body  # pyright: ignore[reportAttributeAccessIssue]
        monkeypatch.setitem(sys.modules, "act_for_test", module)
        monkeypatch.setitem(cli.COMMANDS, "act", cli.Command("act_for_test", "", ""))

    return install


def raising(error: BaseException) -> Callable[[list[str]], int]:
    def body(argv: list[str]) -> int:
        raise error

    return body


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ConfigError("batch.rows=7: no"), 2, "agenttune: batch.rows=7: no\n"),
        (DataError("no conversation", Where("a.jsonl", 3)), 3, "agenttune: a.jsonl:3: no conversation\n"),
        (OSError(28, "No space left"), 1, "agenttune: OSError: [Errno 28] No space left\n"),
        (RuntimeError("two\nlines"), 1, "agenttune: RuntimeError: two lines\n"),
        (AssertionError(), 1, "agenttune: AssertionError\n"),
        (KeyboardInterrupt(), 130, "agenttune: interrupted\n"),
        (SystemExit(75), 75, ""),
        (SystemExit(None), 0, ""),
    ],
)
def test_exit_codes(act, capsys, error: BaseException, code: int, line: str) -> None:
    act(raising(error))
    assert cli.main(["act"]) == code
    assert capsys.readouterr().err == line


def test_traceback_only_when_asked_for(act, capsys) -> None:
    act(raising(ConfigError("no")))
    assert cli.main(["act", "x", "--traceback"]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("Traceback")
    assert shown.endswith("agenttune: no\n")


def test_arguments_and_result_go_through(act) -> None:
    seen: list[list[str]] = []

    def body(argv: list[str]) -> int:
        seen.append(argv)
        return 75

    act(body)
    assert cli.main(["--traceback", "act", "a.yaml", "x=1"]) == 75
    assert seen == [["a.yaml", "x=1"]]


def test_unknown_command_names_the_nearest(capsys) -> None:
    assert cli.main(["trian"]) == 2
    assert "did you mean train" in capsys.readouterr().err


def test_help_has_an_example_of_every_command(capsys) -> None:
    assert cli.main(["--help"]) == 0
    shown = capsys.readouterr().out
    for name, command in cli.COMMANDS.items():
        assert command.example.startswith(f"agenttune {name} ")
        assert command.example in shown


def test_no_command_is_a_mistake(capsys) -> None:
    assert cli.main([]) == 2
    assert "usage" in capsys.readouterr().err


def test_torch_is_not_imported_for_help_and_mistakes() -> None:
    script = (
        "import sys; from launch.cli import main; main(['--help']); main(['nonsense'])\n"
        "import configs.check, configs.load\n"
        "sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True).returncode == 0


def test_reader_that_goes_away_is_no_error_message() -> None:
    read, write = os.pipe()
    os.close(read)  # every write fails from here on
    command = [sys.executable, "-m", "launch.cli", "--help"]
    ended = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert ended.returncode != 0
    assert ended.stderr == ""
