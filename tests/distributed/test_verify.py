"""`agenttune verify` as a whole command: what it prints, its exit codes, and that it leaves nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from tiny import layout, write_config

PLANTED = Path(__file__).with_name("planted_in_verify")
ROOT = Path(__file__).resolve().parents[2]


def verify(
    folder: Path, config: Path, *arguments: str, fault: str | None = None
) -> subprocess.CompletedProcess[str]:
    """The command, in `folder`, which is its folder for temporary ones too."""
    (folder / "temporary").mkdir()
    environment = os.environ | {"TMPDIR": str(folder / "temporary"), "PYTHONPATH": str(ROOT)}
    if fault:
        environment |= {"PLANTED_FAULT": fault, "PYTHONPATH": f"{PLANTED}{os.pathsep}{ROOT}"}
    environment.pop("TORCHINDUCTOR_CACHE_DIR", None)  # torch sets it in the process of the tests
    command = [sys.executable, "-m", "launch.cli", "verify", str(config), *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240, check=False
    )


def nothing_left(folder: Path) -> bool:
    """No file of it, and no process a second later."""
    deadline = time.monotonic() + 1
    while time.monotonic() < deadline and processes(folder):
        time.sleep(0.02)
    return not processes(folder) and not list((folder / "temporary").iterdir())


def processes(folder: Path) -> list[int]:
    found: list[int] = []
    for process in psutil.process_iter(["environ"]):
        if (process.info["environ"] or {}).get("TMPDIR", "").startswith(str(folder / "temporary")):
            found += [process.pid]
    return found


@pytest.fixture
def bare_model(model: Path, tmp_path: Path) -> Path:
    """config.json and tokenizer, no weights."""
    folder = tmp_path / "bare"
    folder.mkdir()
    for file in model.iterdir():
        if file.suffix != ".safetensors":
            (folder / file.name).write_bytes(file.read_bytes())
    return folder


def test_a_folded_layout_holds(bare_model: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path / "run.yaml", bare_model, model={"dtype": "bfloat16"})
    settings = ["batch.rows=8", "data.template=chatml", "train.steps=null"]
    asked = [*layout(4, 4, 2, sequence=True, recompute="selective"), *settings]
    done = verify(tmp_path, config, *asked)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert "folded to tensor 2 x pipeline 3 x data 1 = 6 processes" in done.stdout
    assert "vocabulary 1203, " in done.stdout  # <|im_start|> and <|im_end|> were added
    assert "bfloat16" in done.stdout
    checks = [line.split()[1] for line in lines if line.startswith("ok")]
    assert sorted(checks) == sorted(
        ["rows", "loss", "gradients", "steps", "isolation", "micro-batches", "recompute"]
    )
    assert lines[-1].startswith("all 7 checks hold")
    assert nothing_left(tmp_path)
    assert not (tmp_path / "run").exists()  # run.output_dir
    assert {path.name for path in tmp_path.iterdir()} == {"bare", "run.yaml", "temporary"}


def test_a_fault_exits_1_and_is_told(bare_model: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path / "run.yaml", bare_model)
    done = verify(tmp_path, config, *layout(1, 1, 2), fault="copies not averaged")
    assert done.returncode == 1, done.stdout + done.stderr
    (failed,) = [line for line in done.stdout.splitlines() if line.startswith("FAILED  gradients")]
    assert "all parameters" in failed
    assert "checks failed: " in done.stdout.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert nothing_left(tmp_path)


def test_a_rank_that_is_killed_is_named(bare_model: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path / "run.yaml", bare_model)
    done = verify(tmp_path, config, *layout(2, 1, 1), fault="rank killed")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "rank 1 of the layout failed, and all were ended: was killed by signal 9" in done.stderr
    assert nothing_left(tmp_path)


def test_checks_that_were_not_made_do_not_hold(bare_model: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path / "run.yaml", bare_model)
    done = verify(tmp_path, config, *layout(2, 1, 1), fault="parent killed")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "the processes ended without having told of: " in done.stderr
    assert "checks hold" not in done.stdout
    assert nothing_left(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["parallel.tensor=3"], 2, "parallel.tensor=3: must divide the attention heads (8)"),
        (["--ranks", "0"], 2, "--ranks=0: must be at least 1"),
        (["data.sources.0.path=bad.jsonl"], 3, "bad.jsonl:1"),
    ],
)
def test_what_is_wrong_before(
    arguments: list[str], code: int, said: str, bare_model: Path, tmp_path: Path
) -> None:
    (tmp_path / "bad.jsonl").write_text('{"messages": [{"role": "assistant", "content": "first"}]}\n')
    config = write_config(tmp_path / "run.yaml", bare_model)
    done = verify(tmp_path, config, *arguments)
    assert (done.returncode, done.stdout) == (code, ""), done.stdout + done.stderr
    assert said in done.stderr
    assert nothing_left(tmp_path)
