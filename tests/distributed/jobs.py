"""Whole jobs as users start them, in a folder of their own."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "configs" / "demo"
ENTRY = ROOT / "launch" / "train.py"
AGENTTUNE = [sys.executable, "-m", "launch.cli"]
STEPS = 12
LAUNCHERS = {
    "agenttune": [*AGENTTUNE, "train"],
    "torchrun": [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", str(ENTRY)],
    "deepspeed": [str(Path(sys.executable).with_name("deepspeed")), "--num_gpus", "2", str(ENTRY)],
}
END_CODES = {"agenttune": (1,), "torchrun": (1,), "deepspeed": (1, 247)}
"""Of a job whose ranks are killed. DeepSpeed's launcher tells of one that it has seen, -9 modulo 256."""
LIMIT_S = 300
MEASURED = ("step_seconds", "tokens_per_second", "data_wait_seconds", "memory")
MARK = "AGENTTUNE_TEST_RUN"
TENSOR_2 = ["parallel.tensor=2", "parallel.pipeline=1"]
PLANTED = Path(__file__).with_name("planted")
HELD_GIL = "import ctypes; m = ctypes.create_string_buffer(64); f = ctypes.PyDLL(None).pthread_mutex_lock; f(m); f(m)"
NO_DATA = """
from tokenization.errors import DataError
from trainer.data.prefetch import Prefetch
def starve(self):
    raise DataError("planted: no rows")
Prefetch.__next__ = starve
"""
_LAST = "agenttune: the training was ended: rank {} failed, was killed or left first"
FAILURES = [
    ("raise RuntimeError('planted')", 1, _LAST),
    (NO_DATA, 3, "agenttune: rank {} alone ends the training: others have got past this"),
    ("import os; os._exit(0)", 1, _LAST),
    ("import os; os.kill(os.getpid(), 9)", 1, _LAST),
]
"""What a rank does, the job's exit code, and how a line that names the rank begins."""
CONFIG = f"""
run: {{output_dir: whole, seed: 1}}
model: {{path: model, dtype: float32}}
parallel: {{tensor: 1, pipeline: 2, data: 1}}
data:
  sequence_length: 256
  pack_window: 16
  eta: 0.5
  sources:
    - {{name: agent, path: {DEMO}/agent.jsonl, role: agent}}
    - {{name: general, path: {DEMO}/general.jsonl, role: general}}
batch: {{rows: 4}}
train: {{steps: {STEPS}}}
optimizer: {{lr: 3.0e-3}}
checkpoint: {{every: 8}}
wandb: {{mode: disabled}}
"""


@dataclass
class Folder:
    """Runs in one directory. Every process of theirs, whoever its parent is by then, carries the mark."""

    path: Path
    mark: str = field(default_factory=lambda: uuid4().hex)

    def start(self, *command: str, **variables: str) -> subprocess.Popen[str]:
        hidden = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"}
        environment = {key: value for key, value in os.environ.items() if key not in hidden}
        environment |= {MARK: self.mark, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""} | variables
        output = (self.path / "output.txt").open("w")
        return subprocess.Popen(
            command,
            cwd=self.path,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # a process group of its own, as a shell or a batch system gives it
        )

    def run(self, *command: str) -> tuple[int, str]:
        """Exit code, and all that was printed."""
        code = self.start(*command).wait(LIMIT_S)
        return code, self.output()

    def output(self) -> str:
        return (self.path / "output.txt").read_text()

    def metrics(self, run: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.path / run / "metrics.jsonl").read_text().splitlines()]

    def wait_for_steps(self, run: str, steps: int, process: subprocess.Popen[str]) -> None:
        file = self.path / run / "metrics.jsonl"
        deadline = time.monotonic() + LIMIT_S
        while not file.is_file() or file.read_bytes().count(b"\n") < steps:
            assert process.poll() is None, self.output()
            assert time.monotonic() < deadline, self.output()
            time.sleep(0.02)

    def wait_for_output(self, text: str, process: subprocess.Popen[str]) -> None:
        deadline = time.monotonic() + LIMIT_S
        while text not in self.output():
            assert process.poll() is None or text in self.output(), self.output()
            assert time.monotonic() < deadline, self.output()
            time.sleep(0.02)

    def processes(self, ranks_only: bool = False) -> list[psutil.Process]:
        found: list[psutil.Process] = []
        for process in psutil.process_iter():
            try:
                environment = process.environ()
                if environment.get(MARK) == self.mark and process.status() != psutil.STATUS_ZOMBIE:
                    found += [process] if "RANK" in environment or not ranks_only else []
            except psutil.Error:
                continue
        if ranks_only:  # not what they forked: it has their environment
            ranks = {process.pid for process in found}
            found = [process for process in found if process.ppid() not in ranks]
        return found


def prepared(path: Path) -> Folder:
    """With a config of two stages, and the tiny model that it trains; `test_demo.py` has two tensor ranks in each."""
    folder = Folder(path)
    (path / "config.yaml").write_text(CONFIG)
    made = [*AGENTTUNE, "init-model", "model", "--shape", "tiny", "--tokenizer", str(DEMO / "tokenizer")]
    code, output = folder.run(*made)
    assert code == 0, output
    return folder


@contextlib.contextmanager
def moved_away(path: Path) -> Iterator[None]:
    aside = path.rename(path.with_name("aside"))
    try:
        yield
    finally:
        aside.rename(path)


def unmeasured(reports: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without what no two runs share."""
    return [{key: value for key, value in report.items() if key not in MEASURED} for report in reports]


def kill_all(folder: Folder) -> None:
    for process in folder.processes():
        process.kill()


def endless(run: str) -> list[str]:
    """Overrides for a run of two tensor ranks that does not end by itself."""
    return [*TENSOR_2, "train.steps=100000", "checkpoint.every=null", f"run.output_dir={run}"]


def stop(folder: Folder, rank: int) -> float:
    """The time at which it was stopped."""
    (found,) = (p for p in folder.processes(ranks_only=True) if p.environ()["RANK"] == str(rank))
    found.suspend()
    return time.time()


def planted(
    folder: Folder, rank: int, code: str, *command: str, **variables: str
) -> tuple[subprocess.Popen[str], float]:
    """A job that is started with this fault, once the fault has come, and the time at which it did."""
    paths = {"PYTHONPATH": f"{PLANTED}:{ROOT}"} | variables
    process = folder.start(*command, **paths, AGENTTUNE_PLANTED_RANK=str(rank), AGENTTUNE_PLANTED_CODE=code)
    note = folder.path / "planted.txt"
    deadline = time.monotonic() + LIMIT_S
    while not note.exists() or not note.read_text():
        assert process.poll() is None, folder.output()
        assert time.monotonic() < deadline, folder.output()
        time.sleep(0.02)
    return process, float(note.read_text())
