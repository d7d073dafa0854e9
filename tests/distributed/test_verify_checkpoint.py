"""`agenttune verify-checkpoint` on real checkpoints: sound, damaged, and of parts that do not belong together."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rank_pool import RankPool
from safetensors.torch import load_file
from tiny import layout, write_config

from launch.cli import main
from trainer.checkpoint.manifest import MANIFEST, manifest_text, read_record
from trainer.checkpoint.tensors import write_tensors

STATE = "training_state/model-tensor-01.safetensors"
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def run(ranks: RankPool, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = write_config(tmp_path_factory.mktemp("verified") / "run.yaml", model, train={"steps": 3})
    ranks.run("train_run", 4, config=str(config), overrides=[*layout(2, 1, 2), "checkpoint.every=1"])
    return config


@pytest.fixture
def checkpoint(run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(run.with_suffix("") / "checkpoints/step-00000003", tmp_path / "step-00000003")


def verified(folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = main(["verify-checkpoint", str(folder)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def change(file: Path, name: str, changed: Callable[[torch.Tensor], torch.Tensor]) -> None:
    tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}  # the file is mapped
    write_tensors(file, tensors | {name: changed(tensors[name])})


def renew_manifest(folder: Path) -> None:
    """So that the change is not seen by its checksum."""
    files = [f for f in folder.rglob("*") if f.is_file() and f.name not in (MANIFEST, UNLISTED)]
    records = {file.relative_to(folder).as_posix(): read_record(file) for file in files}
    (folder / MANIFEST).write_text(manifest_text(3, records))


def test_a_sound_one(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (checkpoint / "notes.txt").write_text("mine")
    code, out, err = verified(checkpoint, capsys)
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == "sound"
    words = ["notes.txt", "XXH3", "39 tensors, float32", "2 files", "bit by bit", "step 3 of 3"]
    assert all(word in out for word in words), out


def test_a_flipped_bit(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = bytearray((checkpoint / STATE).read_bytes())
    content[-5] ^= 1
    (checkpoint / STATE).write_bytes(content)
    code, out, err = verified(checkpoint, capsys)
    assert code == 1
    assert f"damaged: {checkpoint / STATE}: holds other bytes than were written" in err
    assert "sound" not in out


def other_weights(folder: Path) -> None:
    change(folder / WEIGHTS, "model.norm.weight", lambda weight: weight.nextafter(torch.tensor(9.0)))


def a_moment_that_is_none(folder: Path) -> None:
    name = next(name for name in load_file(folder / STATE) if name.endswith("/exp_avg"))
    change(folder / STATE, name, lambda moment: moment / 0)


def a_lost_part(folder: Path) -> None:
    listed = json.loads((folder / "training_state/tensors.json").read_text())
    listed["lm_head.weight"].pop()
    (folder / "training_state/tensors.json").write_text(json.dumps(listed))


def another_shape(folder: Path) -> None:
    change(folder / WEIGHTS, "lm_head.weight", lambda weight: weight[1:].clone())


def another_step(folder: Path) -> None:
    file = folder / "training_state/state.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"step": 2}))


def another_dtype(folder: Path) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"dtype": "bfloat16"}))


def a_file_beside(folder: Path) -> None:
    """The parts are read from a copy that the manifest does not know."""
    listed = json.loads((folder / "training_state/tensors.json").read_text())
    name = Path(STATE).name
    shutil.copyfile(folder / STATE, folder / "training_state/copy.safetensors")
    text = json.dumps(listed).replace(name, "copy.safetensors")
    (folder / "training_state/tensors.json").write_text(text)


UNLISTED = "copy.safetensors"
FAULTS: dict[Callable[[Path], None], str] = {
    other_weights: "model.norm.weight is not training_state's float32 weight",
    a_moment_that_is_none: "/exp_avg holds values that are not finite",
    a_lost_part: "rows or columns of lm_head.weight",
    another_shape: "lm_head.weight has shape (1200, 64), not (1201, 64)",
    another_dtype: "dtype bfloat16, but the weights are float32",
    a_file_beside: f"{UNLISTED}: is read but not in manifest.json",
    another_step: "step 2, but 3 in manifest.json",
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_what_checksums_do_not_see(
    fault: Callable[[Path], None], checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fault(checkpoint)
    renew_manifest(checkpoint)
    code, out, err = verified(checkpoint, capsys)
    assert (code, FAULTS[fault] in err) == (1, True), err
    assert err.startswith("damaged: ")
    assert "sound" not in out


def test_a_renamed_one(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    renamed = checkpoint.rename(checkpoint.with_name("step-00000009"))
    code, _, err = verified(renamed, capsys)
    assert (code, "is of step 3; it was renamed" in err) == (1, True)


def test_a_run_is_no_checkpoint(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run.with_suffix("")
    code, _, err = verified(folder, capsys)
    assert code == 2
    assert f"name one, such as {folder}/checkpoints/step-00000003" in err


def test_training_goes_on_from_the_checkpoint_before(run: Path, ranks: RankPool, tmp_path: Path) -> None:
    """The newest has a flipped bit, and another layout meets it: losses and checkpoint are those of before."""
    old = run.with_suffix("")
    new = shutil.copytree(old, tmp_path / "new")
    file = new / "checkpoints/step-00000003" / STATE
    content = bytearray(file.read_bytes())
    content[100_000] ^= 0x40
    file.write_bytes(content)
    settings = [*layout(1, 2, 1), f"run.output_dir={new}", "checkpoint.every=1"]
    # One of the two reads the file.
    assert set(ranks.run("train_run", 2, config=str(run), overrides=settings, small=1000, limit_s=60)) == {0}
    before, after = (json.loads((r / "metrics.jsonl").read_text().splitlines()[-1]) for r in (old, new))
    assert (before["step"], after["step"]) == (3, 3)
    assert after["data_hash"] == before["data_hash"]
    assert after["loss"] == pytest.approx(before["loss"], rel=1e-6)
    assert main(["verify-checkpoint", str(new / "checkpoints/step-00000003")]) == 0
    assert main(["verify-checkpoint", str(new / "checkpoints/step-00000003-left")]) == 1


def test_a_run_does_not_begin_with_damaged_weights(
    run: Path, checkpoint: Path, ranks: RankPool, tmp_path: Path
) -> None:
    """Both ranks refuse, whichever of them reads the file; without a manifest it is any model folder."""
    content = bytearray((checkpoint / WEIGHTS).read_bytes())
    content[-9] ^= 1
    (checkpoint / WEIGHTS).write_bytes(content)
    settings = [*layout(2), f"model.path={checkpoint}", f"run.output_dir={tmp_path / 'new'}", "train.steps=1"]
    outcomes = ranks.outcomes("train_run", 2, config=str(run), overrides=settings, limit_s=60)
    for outcome in outcomes:
        assert outcome["error"] == "ConfigError"
        assert f"model.path: {checkpoint / WEIGHTS}: holds other bytes" in outcome["message"]
    (checkpoint / MANIFEST).unlink()
    assert set(ranks.run("train_run", 2, config=str(run), overrides=settings)) == {0}
    (checkpoint / WEIGHTS).unlink()
    again = [*settings, "checkpoint.resume=never"]
    for outcome in ranks.outcomes("train_run", 2, config=str(run), overrides=again, limit_s=60):
        assert f"model.path={checkpoint}: no *.safetensors weights" in outcome["message"]
