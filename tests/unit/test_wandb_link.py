"""R14: what becomes of a run's record where wandb hangs, fails or dies at any point: nothing, and it costs no time."""

from __future__ import annotations

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
FAKE = """
import json, os, subprocess, sys, threading, time
class Settings:
    def __init__(self, **values): pass
def note(**values):
    with open(os.environ["FAKE_NOTES"], "a") as file:
        file.write(json.dumps(values) + "\\n")
def meet(where):
    what = os.environ.get("FAKE_" + where, "")
    if what == "hang":
        note(hangs=where)
        threading.Event().wait()
    if what == "raise":
        raise OSError("no route to host")
    if what == "die":
        os.kill(os.getpid(), 9)
def login(prompt): return bool(os.environ.get("FAKE_KEY"))
class Run:
    summary = {}
    def log(self, values, step):
        meet("LOG")
        note(step=step, **values)
    def finish(self):
        meet("FINISH")
        note(finished=True)
def init(**values):
    if os.environ.get("FAKE_SERVICE"):
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
    meet("INIT")
    note(init={key: values[key] for key in ("id", "mode", "project", "resume")})
    return Run()
"""


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wandb that notes what it is told, in the file returned, and has the faults that the environment names."""
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake/wandb.py").write_text(FAKE)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'fake'}:{ROOT}")
    monkeypatch.setenv("FAKE_NOTES", str(tmp_path / "notes"))
    monkeypatch.setenv("WANDB_API_KEY", "")
    return tmp_path / "notes"


def started(folder: Path, id: str | None = None) -> WandbLink:
    return WandbLink(folder, WandbConfig(mode="online", project="p"), {"run": {"seed": 1}}, id)


def notes(file: Path) -> list[dict[str, Any]]:
    import json

    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def test_all_of_it_gets_there(fake: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    link = started(tmp_path, "abc")
    for step in range(1, 4):
        link.log({"loss": float("nan") if step == 3 else 1.0 / step}, step)
    assert link.close(20)
    first, *steps, last = notes(fake)
    assert first == {"init": {"id": "abc", "mode": "offline", "project": "p", "resume": "allow"}}
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
    seconds: list[float] = []
    beats: list[int] = []
    for step in range(1, 2001):  # more than a pipe holds
        begun = time.perf_counter()
        link.log({"loss": 1.0, "text": "x" * 200}, step)
        seconds.append(time.perf_counter() - begun)
    assert sorted(seconds)[len(seconds) // 2] < 1e-3  # a step's 1% is more; no test of speed, but of waiting
    children = [
        p for p in psutil.Process().children(recursive=True) if "sleep(1000)" in " ".join(p.cmdline())
    ]
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
