"""R14: what becomes of a run's record where wandb hangs, fails or dies at any point: nothing, and it costs no time."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from configs.schema import WandbConfig
from trainer.wandb_link import WandbLink

ROOT = Path(__file__).resolve().parents[2]
FAKE = ROOT / "tests/fake_wandb"


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wandb that notes what it is told, in the file returned, and has the faults that the environment names."""
    monkeypatch.setenv("PYTHONPATH", f"{FAKE}:{ROOT}")
    monkeypatch.setenv("FAKE_NOTES", str(tmp_path / "notes"))
    monkeypatch.setenv("WANDB_API_KEY", "")
    return tmp_path / "notes"


def started(folder: Path, id: str | None = None) -> WandbLink:
    return WandbLink(folder, WandbConfig(mode="online", project="p"), {"run": {"seed": 1}}, id)


def notes(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def test_all_of_it_gets_there(fake: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    link = started(tmp_path, "abc")
    for step in range(1, 4):
        link.log({"loss": float("nan") if step == 3 else 1.0 / step}, step)
    link.summary({"plan": {"layout": 1}, "data/agent/drawn": 7})
    assert link.close(20)
    first, *steps, summary, last = notes(fake)
    begun = {
        "id": "abc",
        "mode": "offline",
        "project": "p",
        "resume": "allow",
        "config": {"run": {"seed": 1}},
    }
    assert first == {"init": begun}
    assert summary == {"summary": {"plan": {"layout": 1}, "data/agent/drawn": 7}}
    assert [values["step"] for values in steps] == [1, 2, 3]
    assert last == {"finished": True}
    assert "wandb: no API key, so this run is kept offline" in capfd.readouterr().err


def test_a_new_run_has_an_id_before_wandb_answers(
    fake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_INIT", "hang")
    links = [started(tmp_path), started(tmp_path)]
    assert links[0].id != links[1].id
    assert all(len(link.id) == 8 for link in links)
    for link in links:
        link.close(0)


@pytest.mark.parametrize("where", ["INIT", "LOG", "FINISH"])
@pytest.mark.parametrize("what", ["hang", "raise", "die"])
def test_a_fault_costs_no_time_and_leaves_nothing(
    where: str,
    what: str,
    fake: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(f"FAKE_{where}", what)
    monkeypatch.setenv("FAKE_SERVICE", "yes")
    link = started(tmp_path)
    beats: list[int] = []
    for step in range(
        1, 2001
    ):  # more than a pipe holds: where it waited for the other side it would wait for ever
        link.log({"loss": 1.0, "text": "x" * 200}, step)
    deadline = time.monotonic() + 30
    while not (children := services(fake)):  # it begins one before anything else
        assert time.monotonic() < deadline
        time.sleep(0.02)
    begun = time.monotonic()
    assert not link.close(3.0, lambda: beats.append(1))
    assert time.monotonic() - begun < 20
    if what == "hang":
        assert beats
        _, alive = psutil.wait_procs(children, timeout=5)
        assert not alive
    assert ("wandb stopped (OSError: no route to host)" in capfd.readouterr().err) == (what == "raise")
    for process in children:
        if process.is_running():
            process.kill()


def services(fake: Path) -> list[psutil.Process]:
    """What the fake has started, whoever its parent is by then."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        try:
            mine = process.environ().get("FAKE_NOTES") == str(fake)
            found += [process] if mine and "sleep(1000)" in " ".join(process.cmdline()) else []
        except psutil.Error:
            continue
    return found


def test_signals_to_a_whole_job_are_not_its(fake: Path, tmp_path: Path) -> None:
    """Slurm sends them to every process; the training finishes its step and tells of it."""
    link = started(tmp_path, "abc")
    link.log({"loss": 1.0}, 1)
    deadline = time.monotonic() + 30
    while len(notes(fake)) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        link._process.send_signal(number)
    link.log({"loss": 0.5}, 2)
    assert link.close(20)
    assert notes(fake)[-2:] == [{"step": 2, "loss": 0.5}, {"finished": True}]


def test_it_ends_with_a_training_that_was_killed(
    fake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_INIT", "hang")
    pid = os.fork()
    if not pid:
        link = started(tmp_path)
        (tmp_path / "pid").write_text(str(link._process.pid))
        while notes(fake) != [{"hangs": "INIT"}]:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    sender = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 30
    while psutil.pid_exists(sender) and psutil.Process(sender).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.05)
