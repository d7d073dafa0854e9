"""Job scripts: the shipped ones are what is rendered, and `submit` refuses before the queue does."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from configs.load import load_config
from configs.shapes import SHAPES
from launch import batch, submit
from launch.batch import resumes
from launch.cli import main
from launch.job_script import JobOptions, job_script
from launch.submit import nodes_for

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = {size: ROOT / f"configs/llama2_{size}.yaml" for size in ("7b", "13b", "70b")}


@pytest.mark.parametrize(("size", "nodes"), [("7b", 1), ("13b", 1), ("70b", 4)])
def test_the_shipped_scripts_are_rendered(size: str, nodes: int) -> None:
    config = load_config(CONFIGS[size])
    assert nodes_for(config, 8) == nodes
    options = JobOptions(Path(config.run.output_dir).name, nodes, 8)
    words = [str(CONFIGS[size].relative_to(ROOT))]
    rendered = job_script(options, ".venv/bin/python", "launch/batch.py", words).splitlines()
    shipped = (ROOT / f"slurm/train_{size}.sh").read_text().splitlines()
    assert [line for line in shipped if not line.startswith("# ")] == rendered


def test_what_stands_in_a_script() -> None:
    options = JobOptions("x", 2, 4, "1:00:00", "gpu", "me", 300, ("--qos=high",), ("module load cuda",))
    lines = job_script(options, "/a b/python", "batch.py", ["c.yaml", "model.path=it's here"]).splitlines()
    asked = {line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH ")}
    assert asked >= {
        *("--nodes=2", "--gpus-per-node=4", "--time=1:00:00", "--partition=gpu", "--account=me"),
        *("--signal=B:USR1@300", "--requeue", "--ntasks-per-node=1", "--qos=high"),
    }
    assert lines[-3:-1] == ["module load cuda", "set -euo pipefail"]  # which modules' own scripts do not bear
    words = shlex.split(lines[-1])
    assert words == ["exec", "/a b/python", "batch.py", "c.yaml", "model.path=it's here", "$@"]


def test_no_gpus_are_asked_for_on_cpus() -> None:
    assert "gpus" not in job_script(JobOptions("x", 2, 0), "python", "batch.py", ["c.yaml"])


def test_a_dry_run_needs_neither_model_nor_data(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["submit", str(CONFIGS["70b"]), "--partition", "gpu", "checkpoint.every=100", "--dry-run"]
    assert main(command) == 2  # it is not to be taken for one that works
    told = capsys.readouterr()
    assert "#SBATCH --nodes=4\n" in told.out
    assert "checkpoint.every=100" in told.out.splitlines()[-1]
    assert "data 1 = 32 ranks on 4 node(s)" in told.err
    assert "not submitted, and would not be as things are: " in told.err
    assert main(command[:-1]) == 2  # without --dry-run
    assert capsys.readouterr().err.startswith("agenttune: ")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--nodes", "3", "parallel.data=1"], "32 processes on 3 hosts: must be a multiple of 3"),
        (["--nodes", "8", "parallel.data=1"], "leave 4 of 8 GPUs idle on each of 8 nodes"),
        (
            ["--nodes", "2", "parallel.data=1"],
            "32 processes on 2 hosts are 16 on each, but node 0 has 8 slots",
        ),
        (["--nodes", "0"], "--nodes"),
        (["--time", "12:00"], "--time=12:00: 720 s for a job that is told to save 900 s before its end"),
        (["--time", "15"], "--time=15: 900 s"),
        (["--time", "0-18", "--save-before", "65000"], "--time=0-18: 64800 s"),
        (["--time", "half a day"], "no time limit of Slurm's"),
        (["--save-before", "-5"], "--save-before=-5: must be 1 to 65535 seconds"),
        (["--save-before", "70000", "--time", "2-0"], "must be 1 to 65535 seconds"),
        (["--sbatch=--time=5"], "--sbatch=--time=5: is set by --time"),
        (["--gpus-per-node", "-8"], "--gpus-per-node=-8: must be at least 0"),
        (["parallel.tensor=0"], "parallel.tensor=0: must be at least 1"),
        (["--name", "a b"], "--name=a b: must be one word"),
        (["--partition", "low high"], "--partition=low high: must be one word"),
        (["launch.hostfile=hosts"], "launch.hostfile=hosts: a job of Slurm trains on its own nodes"),
        (["run.output_dir=''"], "run.output_dir='': must name a folder"),
        (["optimizer.lr=-1"], "optimizer.lr=-1"),
        (["parallel.tensr=8"], "the nearest known key is parallel.tensor"),
    ],
)
def test_what_cannot_work_is_refused(
    options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["submit", str(CONFIGS["70b"]), "--dry-run", *options]) == 2
    told = capsys.readouterr()
    assert said in told.err
    assert told.out == ""


@pytest.mark.parametrize(
    ("limit", "seconds"),
    [
        *(
            ("90", 5400),
            ("90:30", 5430),
            ("1:30:00", 5400),
            ("1-2", 93600),
            ("1-2:30", 95400),
            ("1-2:30:15", 95415),
        ),
        *(("UNLIMITED", None), ("0", None)),
    ],
)
def test_times_as_slurm_reads_them(limit: str, seconds: float | None) -> None:
    """By the table of sbatch's manual."""
    assert submit.seconds_of(limit) == seconds


def test_no_plan_is_told_of_another_schedule(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submit, "_fault", lambda config, layout: "")
    folded = ["parallel.schedule=dualpipev", "run.output_dir=runs/a name"]
    assert main(["submit", str(CONFIGS["70b"]), "--dry-run", *folded]) == 0
    told = capsys.readouterr()
    assert "memory is not planned for parallel.schedule=dualpipev" in told.err
    assert "GB" not in told.err
    assert "#SBATCH --job-name=a-name\n" in told.out


def test_without_slurm_it_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(submit, "_fault", lambda config, layout: "")
    monkeypatch.setattr(submit, "_nothing_left", lambda config, layout: "")
    assert main(["submit", str(CONFIGS["7b"]), "--gpus-per-node", "0"]) == 2
    assert "sbatch: no such command" in capsys.readouterr().err


FIRST, AGAIN = {"SLURM_JOB_ID": "7"}, {"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": "1"}
AUTO = ["checkpoint.resume=auto"]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A config of a run whose folder is there; it begins with a checkpoint of another run."""
    settings = {
        "run": {"output_dir": str(tmp_path / "run")},
        "model": {"path": "m"},
        "checkpoint": {"resume": "other/step-00000008"},
    }
    OmegaConf.save(settings, tmp_path / "c.yaml")
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    return tmp_path / "c.yaml"


def test_a_job_that_was_queued_again_goes_on_once_it_has_saved(run: Path) -> None:
    latest = run.parent / "run/checkpoints/latest"
    latest.write_text("step-00000008\n")  # of a run before, say
    assert resumes([str(run)], FIRST) == []
    assert resumes([str(run)], AGAIN) == []  # stopped before it had saved: it begins as it was told
    latest.write_text("step-00000016\n")
    assert resumes([str(run)], AGAIN) == AUTO
    assert resumes([str(run), "checkpoint.resume=never"], AGAIN) == AUTO
    assert resumes([str(run), *AUTO], AGAIN) == []
    assert resumes([str(run)], {}) == []


def test_a_job_without_a_checkpoint_begins_as_it_was_told(run: Path) -> None:
    assert resumes([str(run)], FIRST) == []
    assert resumes([str(run)], AGAIN) == []


def test_what_does_not_fit_is_not_queued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By plan, and only where the type of GPU is named."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps(SHAPES["llama2-70b"].hf_config()))
    monkeypatch.setattr(submit, "_fault", lambda config, layout: "")
    monkeypatch.setattr(submit, "_nothing_left", lambda config, layout: "")
    monkeypatch.setattr(submit, "_submit", lambda script: "Submitted batch job 1")
    command = ["submit", str(CONFIGS["70b"]), f"model.path={model}", "parallel.pipeline=2"]
    assert main([*command, "--gpu", "a100-40"]) == 2
    assert "but --gpu a100-40 has 40; agenttune plan shows what fits" in capsys.readouterr().err
    assert main([*command, "--gpu", "h200"]) == 0
    assert main(command) == 0
    assert "GB on one by plan: Submitted batch job 1" in capsys.readouterr().out


def test_starts_that_save_nothing_are_counted(run: Path, tmp_path: Path) -> None:
    """Until one does."""
    folder, argv = tmp_path / "run", [str(run)]
    assert batch.idle_starts(argv, {}, "") == 0
    assert [batch.idle_starts(argv, AGAIN, "") for _ in range(2)] == [1, 2]
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    (folder / "checkpoints/latest").write_text("step-00000003\n")
    assert batch.idle_starts(argv, AGAIN, "") == 0
    before = batch._latest(argv)
    assert before
    assert batch.idle_starts(argv, AGAIN, before) == 1


@pytest.mark.parametrize(("idle", "queued"), [(2, [True]), (3, [])])
def test_a_job_that_gets_nowhere_is_not_queued_again(
    idle: int,
    queued: list[bool],
    run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    again: list[bool] = []
    monkeypatch.setattr("launch.cli.main", lambda argv: 75)
    monkeypatch.setattr(batch, "requeue", lambda environment: again.append(True))
    monkeypatch.setattr(batch, "idle_starts", lambda *arguments: idle)
    assert batch.main([str(run)]) == 75
    assert again == queued
    assert ("3 starts in a row have saved nothing" in capsys.readouterr().err) == (not queued)


def test_a_job_that_saves_at_each_start_is_queued_again(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As often as it is stopped; and its words come to the training as they are."""
    latest, again, told = run.parent / "run/checkpoints/latest", list[bool](), list[list[str]]()

    def command(argv: list[str]) -> int:
        told.append(argv)
        latest.write_text(f"step-{len(told):08d}\n")
        return 75

    monkeypatch.setattr("launch.cli.main", command)
    monkeypatch.setattr(batch, "requeue", lambda environment: again.append(True))
    for name, value in AGAIN.items():
        monkeypatch.setenv(name, value)
    for _ in range(5):
        assert batch.main([str(run), "--traceback"]) == 75
    assert len(again) == 5
    assert told[0] == ["train", str(run), "--traceback"]


def test_what_wandb_kept_offline_is_sent_once(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """When the training has ended, where there is a key; that it was not sent is told."""
    kept = run.parent / "run/wandb/offline-run-1-a"
    kept.mkdir(parents=True)
    (kept / "run-a.wandb").touch()
    calls: list[list[str]] = []

    def sync(command: list[str], **options: object) -> None:
        calls.append(command)
        if len(calls) > 1:
            (kept / "run-a.wandb.synced").touch()

    monkeypatch.setattr("launch.cli.main", lambda argv: 0)
    monkeypatch.setattr("subprocess.run", sync)
    monkeypatch.setattr(batch, "_has_key", lambda: False)
    batch.main([str(run)])
    assert calls == []
    assert "wandb kept 1 run(s) offline" in capsys.readouterr().err
    monkeypatch.setattr(batch, "_has_key", lambda: True)
    batch.main([str(run)])  # it ends with 0 where the server refuses, too
    assert "could not be sent" in capsys.readouterr().err
    batch.main([str(run)])
    assert capsys.readouterr().err == ""
    batch.main([str(run)])  # all is sent
    assert len(calls) == 2
    assert calls[0][1:] == ["-m", "wandb", "sync", str(kept)]
