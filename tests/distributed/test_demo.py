"""What `make train` promises, with few of its steps and rows: the loss falls by half, and transformers alone replies.

On the way the four ranks are told to stop, and are started again.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

from configs.errors import REQUEUE

STEPS, ROWS = 60, 4
ROOT = Path(__file__).resolve().parents[2]


def run(*command: str) -> str:
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def stop_after(steps: int, log: Path, *command: str) -> None:
    """Tell a run to stop, and wait for it to end as one that is to be started again."""
    with subprocess.Popen([sys.executable, *command], cwd=ROOT) as process:
        try:
            while not log.is_file() or log.read_bytes().count(b"\n") < steps:
                assert process.poll() is None
                time.sleep(0.1)
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=300) == REQUEUE
        finally:
            process.kill()
    assert log.read_bytes().count(b"\n") < STEPS


def test_the_demo(tmp_path: Path) -> None:
    model, folder = str(tmp_path / "model"), tmp_path / "run"
    command = ("-m", "launch.cli")
    run(
        *command,
        "init-model",
        model,
        "--shape",
        "tiny",
        "--tokenizer",
        "configs/demo/tokenizer",
        "--seed",
        "1",
    )
    changed = [
        f"model.path={model}",
        f"run.output_dir={folder}",
        f"train.steps={STEPS}",
        f"batch.rows={ROWS}",
        "wandb.mode=offline",
    ]
    train = (*command, "train", "configs/demo.yaml", *changed)
    stop_after(5, folder / "metrics.jsonl", *train)
    run(*train)
    losses = [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert len(losses) == STEPS
    assert sum(losses[-5:]) / 5 < losses[0] / 2
    assert list((folder / "wandb").glob("offline-run-*/run-*.wandb"))
    printed = run("launch/reply.py", str(folder), "configs/demo/agent.jsonl", "weather_0")
    question, _, reply = printed.partition("Greedy reply of transformers on")
    assert "Which city is warmer today" in question
    assert str(folder / "checkpoints" / f"step-{STEPS:08d}") in reply
    assert reply.partition(":\n\n")[2].strip()
