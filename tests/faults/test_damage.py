"""R5, R6: checkpoints that were damaged after they had been written, and a spoilt `latest`."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random

from lab import NAMES, Ended, Straight
from trials import Trials

from trainer.checkpoint.store import LATEST, step_folder

GLANCED = 1_000
"""Bytes of a file that every rank reads: smaller than those of tensors, which they divide among them."""


KINDS = ("flipped", "cut", "flipped", "emptied", "removed", "lengthened")


def damage(folder: Path, kind: str, random: Random) -> str:
    """Flip a bit of one of its files, cut it, empty it, lengthen it or take it away; says where."""
    file = random.choice([file for file in sorted(folder.rglob("*")) if file.is_file()])
    content = bytearray(file.read_bytes())
    # White space of a manifest is nothing that anybody reads.
    place = random.choice([i for i, byte in enumerate(content) if chr(byte) not in " \n"])
    match kind:
        case "flipped":
            content[place] ^= 1 << random.randrange(8)
        case "cut":
            del content[place:]
        case "emptied":
            content.clear()
        case "lengthened":
            content += b"\0"
    file.unlink()
    if kind != "removed":
        file.write_bytes(content)
    return f"{file} {kind} at {place}"


def test_a_damaged_checkpoint_is_not_used(
    trials: Trials, straight: Callable[[str], Straight], tmp_path: Path
) -> None:
    held = "noticed; the older one is taken loudly, and leads to the same end"
    for trial in trials("R5 a file of the newest flipped, cut, gone", held, few=2, of=100):
        kind, run = trial.turn(KINDS), straight(trial.turn(NAMES))
        with trial:
            folder = run.at(3, tmp_path / str(trial.number), keep=2)
            done = damage(step_folder(folder / "checkpoints", 3), kind, trial.random)
            ended = run.start(folder, small=trial.random.choice((None, GLANCED)))
            assert ended.code == 0, f"{done}\n{ended.told}"
            assert "checkpoint step-00000003 is damaged: " in ended.said, f"{done}\n{ended.told}"
            assert "Going on from step-00000002 instead" in ended.said
            assert "resumed after step 2 from" in ended.said
            run.compare(folder)
            shutil.rmtree(folder)


def test_where_all_are_damaged_the_run_ends(
    trials: Trials, straight: Callable[[str], Straight], tmp_path: Path
) -> None:
    held = "an error on every rank; never step 0"
    for trial in trials("R5 all checkpoints damaged", held, few=1, of=20):
        run, kinds = straight(trial.turn(NAMES)), [trial.turn(KINDS), trial.random.choice(KINDS)]
        with trial:
            folder = run.at(3, tmp_path / str(trial.number), keep=2)
            saved = [step_folder(folder / "checkpoints", step) for step in (3, 2)]
            done = [damage(each, kind, trial.random) for each, kind in zip(saved, kinds, strict=True)]
            ended = run.start(folder, small=trial.random.choice((None, GLANCED)))
            assert_refused(run, ended, folder, "There is no other", str(done))
            shutil.rmtree(folder)


def test_a_spoilt_latest(trials: Trials, straight: Callable[[str], Straight], tmp_path: Path) -> None:
    held = "found by a look at the folders, or an error; never step 0"
    lost: list[Callable[[Path], object]] = [
        lambda pointer: pointer.unlink(),
        lambda pointer: pointer.write_bytes(b""),
        lambda pointer: pointer.write_bytes(b"\0" * 14),
        lambda pointer: pointer.write_bytes(b" \n"),
    ]
    wrong: list[Callable[[Path], object]] = [
        lambda pointer: pointer.write_text("step-00000009\n"),
        lambda pointer: pointer.write_text("step-0000000\n"),
        lambda pointer: pointer.write_bytes(b"\xff\xfestep-00000003"),
        lambda pointer: pointer.write_text(".\n"),
        lambda pointer: pointer.write_text("../checkpoints/step-00000003\n"),
    ]
    for trial in trials("R6 latest missing, empty, NULs, naming nothing", held, few=2, of=30):
        forms = trial.turn((lost, wrong))
        form, run = trial.turn(forms), straight(trial.turn(NAMES))
        with trial:
            folder = run.at(3, tmp_path / str(trial.number), keep=2)
            form(folder / "checkpoints" / LATEST)
            ended = run.start(folder)
            if forms is lost:  # found by a look at the folders
                assert ended.code == 0, ended.told
                assert "resumed after step 3 from" in ended.said
                run.compare(folder)
            else:
                assert_refused(run, ended, folder, "which is not there", "")
            shutil.rmtree(folder)


def assert_refused(run: Straight, ended: Ended, folder: Path, said: str, done: str) -> None:
    """No rank trained, and all say why and what to do."""
    messages = ended.messages()
    assert len(messages) == run.ranks, f"{done}\n{ended.told}"
    assert all(said in message and "checkpoint.resume=never" in message for message in messages.values()), (
        f"{done}\n{ended.told}"
    )
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 3, ended.told
