"""Whole runs as users start them: what they write, how they stop and go on, and what is left when one is killed."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from jobs import (
    AGENTTUNE,
    ENTRY,
    LIMIT_S,
    STEPS,
    TENSOR_2,
    Folder,
    endless,
    kill_all,
    moved_away,
    prepared,
    unmeasured,
)

from configs.load import load_config
from launch.waiting_launcher import LAUNCHER, TOO_EARLY

KEYS = [
    *(
        "step",
        "loss",
        "loss_by_source",
        "loss_by_kind",
        "lr",
        "grad_norm",
        "targets",
        "tokens",
        "target_share",
    ),
    *(
        "rows",
        "fill",
        "step_seconds",
        "tokens_per_second",
        "data_wait_seconds",
        "data_hash",
        "skipped",
        "memory",
    ),
    "mfu",
    "grad_norm_by_layer",
    "weight_norm_by_layer",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Folder]:
    folder = prepared(tmp_path_factory.mktemp("launch"))
    yield folder
    kill_all(folder)


@pytest.fixture(autouse=True)
def nothing_left(folder: Folder) -> Iterator[None]:
    yield
    kill_all(folder)


@pytest.fixture(scope="module")
def whole(folder: Folder) -> Path:
    """An uninterrupted run on two stages."""
    code, output = folder.run(*AGENTTUNE, "train", "config.yaml", "wandb.mode=offline")
    assert code == 0, output
    return folder.path / "whole"


def test_run_writes_its_files(folder: Folder, whole: Path) -> None:
    assert load_config(whole / "config.yaml") == load_config(
        folder.path / "config.yaml", ["wandb.mode=offline"]
    )
    reports = folder.metrics("whole")
    assert [report["step"] for report in reports] == list(range(1, STEPS + 1))
    for report in reports:
        assert list(report) == KEYS
        assert list(report["loss_by_source"]) == ["agent", "general"]
        assert report["mfu"] is None
        assert report["rows"] == 4
        assert 0 < report["targets"] < report["tokens"] <= 4 * 256
        assert report["fill"] == report["tokens"] / (4 * 256)
        assert math.isclose(report["tokens_per_second"], report["tokens"] / report["step_seconds"])
    assert reports[-1]["loss"] < reports[0]["loss"]
    text = (whole / "metrics.jsonl").read_text()
    assert max(len(digits) for digits in re.findall(r'"loss": \d+\.(\d+)', text)) >= 14  # nothing is rounded
    checkpoints = whole / "checkpoints"
    assert sorted(file.name for file in checkpoints.iterdir()) == ["latest", "step-00000008", "step-00000012"]
    assert (checkpoints / "latest").read_text().strip() == "step-00000012"
    assert list((whole / "wandb").glob("offline-run-*/run-*.wandb"))


def test_transformers_loads_the_checkpoint(folder: Folder, whole: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    checkpoint = whole / "checkpoints" / "step-00000012"
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    trained: Any = AutoModelForCausalLM.from_pretrained(checkpoint)
    begun: Any = AutoModelForCausalLM.from_pretrained(folder.path / "model")
    begun_state = begun.state_dict()
    for name, weight in trained.state_dict().items():
        assert weight.dtype is torch.float32
        assert not torch.equal(weight, begun_state[name]), f"{name} was not trained"
    prompt = tokenizer("[INST] Hi there. [/INST]", return_tensors="pt")
    generated = trained.generate(**prompt, max_new_tokens=4, do_sample=False)
    assert generated.shape[1] > prompt["input_ids"].shape[1]


def test_stopped_run_goes_on_as_if_nothing_had_been(folder: Folder, whole: Path) -> None:
    command = [*AGENTTUNE, "train", "config.yaml", "run.output_dir=stopped", "wandb.mode=offline"]
    process = folder.start(*command)
    folder.wait_for_steps("stopped", 2, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(LIMIT_S) == 75, folder.output()
    done = len(folder.metrics("stopped"))
    assert 2 <= done < STEPS
    latest = folder.path / "stopped" / "checkpoints" / "latest"
    assert latest.read_text().strip() == f"step-{done:08d}"
    weights = folder.path / "model/model.safetensors"
    with moved_away(weights):  # those of the checkpoint are read
        code, output = folder.run(*command)
        assert code == 0, output
        code, output = folder.run(*command, "checkpoint.resume=never")
        assert (code, "model.path=model: no *.safetensors weights in it" in output) == (2, True), output
    assert unmeasured(folder.metrics("stopped")) == unmeasured(folder.metrics("whole"))
    runs = [path.name.rpartition("-")[2] for path in (folder.path / "stopped/wandb").glob("offline-run-*")]
    assert (len(runs), len(set(runs))) == (2, 1)  # two starts, one run of wandb's


@pytest.mark.parametrize("number", [signal.SIGUSR1, pytest.param(signal.SIGTERM, marks=pytest.mark.long)])
def test_signal_to_every_process_saves(number: signal.Signals, folder: Folder) -> None:
    """Batch systems and `timeout` signal a job's whole group, Slurm and systemd all of its processes."""
    run = f"every-{number.name}"
    process = folder.start(*AGENTTUNE, "train", "config.yaml", *endless(run))
    folder.wait_for_steps(run, 2, process)
    if number is signal.SIGUSR1:
        os.killpg(process.pid, number)
    for each in folder.processes():
        with contextlib.suppress(psutil.NoSuchProcess):
            each.send_signal(number)
    assert process.wait(LIMIT_S) == 75, folder.output()
    latest = folder.path / run / "checkpoints" / "latest"
    assert latest.read_text().strip() == f"step-{len(folder.metrics(run)):08d}"


def test_interrupted_once_it_saves_and_twice_it_ends(folder: Folder) -> None:
    command, saved = [*AGENTTUNE, "train", "config.yaml", *endless("interrupted")], ""
    latest = folder.path / "interrupted/checkpoints/latest"
    for again in (False, True):
        process = folder.start(*command)
        folder.wait_for_steps("interrupted", int(saved[-9:] or 0) + 2, process)
        if again:  # it cannot finish its step
            last_rank(folder.processes(ranks_only=True)).suspend()
        process.send_signal(signal.SIGINT)
        folder.wait_for_output("agenttune: interrupted: finishing the step and saving", process)
        if again:
            process.send_signal(signal.SIGINT)
            folder.wait_for_output("agenttune: interrupted again: ended at once", process)
        assert process.wait(LIMIT_S) == 130, folder.output()
        _, alive = psutil.wait_procs(folder.processes(), timeout=10)  # those that the ranks have forked
        assert not alive, folder.output()
        saved = saved or latest.read_text()
        assert latest.read_text() == saved


@pytest.mark.parametrize(
    ("ranks", "number", "code"),
    [
        (0, signal.SIGTERM, 75),
        pytest.param(2, signal.SIGTERM, 75, marks=pytest.mark.long),
        (2, signal.SIGINT, 130),
    ],
)
def test_stop_before_the_first_step(folder: Folder, ranks: int, number: int, code: int) -> None:
    """While the launcher (ranks 0) or the ranks still import: nothing to save, but the run is to be started again."""
    process = folder.start(*AGENTTUNE, "train", "config.yaml", *endless("early"))
    deadline = time.monotonic() + LIMIT_S
    while len(folder.processes()) < 2 or len(folder.processes(ranks_only=True)) < ranks:
        assert time.monotonic() < deadline, folder.output()
        time.sleep(0.05)
    time.sleep(0.2)
    process.send_signal(number)
    assert process.wait(LIMIT_S) == code, folder.output()
    assert folder.output().splitlines()[-1] == TOO_EARLY
    assert not (folder.path / "early" / "checkpoints").exists()


def test_every_launcher_runs_the_same_ranks(folder: Folder, whole: Path) -> None:
    binaries = Path(sys.executable).parent
    launchers = {
        "deepspeed": [str(binaries / "deepspeed"), "--num_gpus", "2"],
        "torchrun": [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"],
    }
    common = ["config.yaml", *TENSOR_2, "train.steps=3", "optimizer.schedule=constant"]
    reports: dict[str, list[dict[str, Any]]] = {}
    for name, launcher in launchers.items():
        code, output = folder.run(*launcher, str(ENTRY), *common, f"run.output_dir={name}")
        assert code == 0, output
        reports[name] = folder.metrics(name)
    assert unmeasured(reports["deepspeed"]) == unmeasured(reports["torchrun"])
    first, first_on_two_stages = reports["deepspeed"][0], folder.metrics("whole")[0]
    assert math.isclose(first["loss"], first_on_two_stages["loss"], rel_tol=1e-5)

    code, output = folder.run(*AGENTTUNE, "train", *common, "run.output_dir=deepspeed")
    assert code == 0, output
    assert "nothing to do: 3 of 3 steps are done" in output
    assert folder.metrics("deepspeed") == reports["deepspeed"]


def agenttune_itself(processes: list[psutil.Process]) -> psutil.Process:
    (found,) = (process for process in processes if "launch.cli" in process.cmdline())
    return found


def deepspeed_launcher(processes: list[psutil.Process]) -> psutil.Process:
    """The one that starts the ranks."""
    (found,) = (process for process in processes if str(LAUNCHER) in process.cmdline())
    return found


def last_rank(processes: list[psutil.Process]) -> psutil.Process:
    (found,) = (process for process in processes if process.environ().get("RANK") == "1")
    return found


@pytest.mark.parametrize(
    ("victim", "code", "fault"),
    [
        (agenttune_itself, -signal.SIGKILL, ""),
        (deepspeed_launcher, 1, "its launcher was killed by signal 9"),
        (last_rank, 1, "rank 1 failed, was killed or left first"),
    ],
)
def test_killed_process_takes_all_with_it(
    folder: Folder, victim: Callable[[list[psutil.Process]], psutil.Process], code: int, fault: str
) -> None:
    run = victim.__name__
    process = folder.start(*AGENTTUNE, "train", "config.yaml", *endless(run), "checkpoint.every=1")
    folder.wait_for_output("checkpoint of step 1: ", process)
    assert len(folder.processes(ranks_only=True)) == 2
    victim(sorted(folder.processes(), key=lambda p: p.create_time())).kill()
    deadline = time.monotonic() + 5
    while folder.processes(ranks_only=True):
        assert time.monotonic() < deadline, "a rank outlived its launcher by 5 s"
        time.sleep(0.1)
    assert process.wait(LIMIT_S) == code, folder.output()
    if code == 1:
        said = f"agenttune: the training was ended: {fault}"
        assert folder.output().splitlines()[-1] == said
        step = (folder.path / run / "checkpoints/latest").read_text().strip()
        assert folder.output().splitlines()[-2] == f"agenttune: the same command goes on from {step}"
    _, alive = psutil.wait_procs(folder.processes(), timeout=10)
    assert not alive


def test_ranks_that_start_after_their_launcher_was_killed_end(folder: Folder) -> None:
    process = folder.start(*AGENTTUNE, "train", "config.yaml", *endless("orphans"))
    deadline = time.monotonic() + LIMIT_S
    while not any(str(LAUNCHER) in p.cmdline() for p in folder.processes()):
        assert time.monotonic() < deadline, folder.output()
        time.sleep(0.01)
    launcher = deepspeed_launcher(folder.processes())
    launcher.suspend()
    while "starting 2 ranks" not in folder.output():
        assert time.monotonic() < deadline, folder.output()
        time.sleep(0.01)
    time.sleep(0.5)  # it has been told to
    process.kill()
    assert not folder.processes(ranks_only=True)
    launcher.resume()
    while not folder.processes(ranks_only=True):  # it starts them, they end themselves
        assert launcher.is_running(), folder.output()
        time.sleep(0.01)
    _, alive = psutil.wait_procs(folder.processes(), timeout=60)
    assert not alive
    assert not folder.processes()
    assert not (folder.path / "orphans" / "metrics.jsonl").exists()


@pytest.mark.parametrize(("window", "steps"), [(1300, False), (16, True)])
def test_bad_row_deep_in_the_data_is_named_once(folder: Folder, window: int, steps: bool) -> None:
    """In the first batch, while rank 0 begins its logs; and after some steps, from which the run may go on."""
    good = {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}
    rows = [good] * 1200
    rows[1100] = {"conversations": good["conversations"][1:]}
    (folder.path / "deep.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = f"deep-{window}"
    changed = ["data.sources.0.path=deep.jsonl", "data.eta=1", f"data.pack_window={window}", *TENSOR_2]
    code, output = folder.run(
        *(*AGENTTUNE, "train", "config.yaml", *changed, "checkpoint.every=1", f"run.output_dir={run}")
    )
    assert code == 3, output
    assert output.count("deep.jsonl:1101") == 1
    assert "agenttune: deep.jsonl:1101: message 1 is the assistant's" in output
    assert "Traceback" not in output
    assert "alone ends the training" not in output  # all met it, none is to blame
    if not steps:
        assert folder.metrics(run) == []
        assert "data.on_error=skip" not in output
        return
    (latest,) = (folder.path / run / "checkpoints/latest").read_text().split()
    assert 0 < len(folder.metrics(run)) == int(latest[-8:])
    how = "data.on_error=skip leaves such rows out and goes on from"
    assert output.splitlines()[-1] == f"agenttune: {how} {latest}"


def test_going_back_leaves_what_was_and_says_so(folder: Folder, whole: Path) -> None:
    back = folder.path / "back"
    shutil.copytree(whole, back)
    named = f"checkpoint.resume=back/checkpoints/step-{STEPS - 4:08d}"
    settings = ["run.output_dir=back", "wandb.mode=offline", named, "optimizer.lr=1e-4"]
    code, output = folder.run(*AGENTTUNE, "train", "config.yaml", *settings)
    assert code == 0, output
    assert f"taken up at step-{STEPS - 4:08d} instead of step-{STEPS:08d}" in output
    assert "the log until now is kept as metrics-left.jsonl" in output
    assert "optimizer.lr 0.003 -> 0.0001" in output
    assert (
        f"step-{STEPS:08d} is step-{STEPS:08d}-left now: the run went on from step-{STEPS - 4:08d}" in output
    )
    assert (back / "metrics-left.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    old, new = folder.metrics("whole"), folder.metrics("back")
    assert unmeasured(new)[: STEPS - 4] == unmeasured(old)[: STEPS - 4]
    assert len(new) == STEPS
    assert new[-1]["loss"] != old[-1]["loss"]
    runs = {path.name.rpartition("-")[2] for path in (back / "wandb").glob("offline-run-*")}
    assert len(runs) == 2  # wandb would drop steps that it has had
