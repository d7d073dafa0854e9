"""R19: a pickle, or code, at each place from which something is loaded: it is never run.

Manifests are made to fit, as whoever plants a file would: no checksum is in the way.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lab import STEPS, Straight
from trials import Trials

from configs.errors import ConfigError
from configs.load import load_config
from launch.cli import main as agenttune
from launch.preflight import check_settings, check_sources
from tests.distributed.tiny import DEMO
from tokenization.errors import DataError
from trainer.checkpoint.manifest import MANIFEST, manifest_text, read_manifest, read_record


class Payload:
    """Makes a folder wherever it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self._mark = str(mark)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, int, bool]]:
        return os.makedirs, (self._mark, 0o777, True)


def _torch(payload: object, zipped: bool) -> bytes:
    file = io.BytesIO()
    torch.save(payload, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


def _numpy(payload: object) -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([payload], dtype=object), allow_pickle=True)
    return file.getvalue()


FORMS: dict[str, tuple[Callable[[object], bytes], Callable[[bytes], object]]] = {
    "pickle": (pickle.dumps, pickle.loads),
    "old pickle": (lambda payload: pickle.dumps(payload, 0), pickle.loads),
    "torch": (lambda p: _torch(p, True), lambda b: torch.load(io.BytesIO(b), weights_only=False)),
    "old torch": (lambda p: _torch(p, False), lambda b: torch.load(io.BytesIO(b), weights_only=False)),
    "numpy": (_numpy, lambda content: np.load(io.BytesIO(content), allow_pickle=True)),
}
"""How a payload is written, and what runs it."""
CHECKPOINT = f"run/checkpoints/step-{STEPS - 1:08d}"
PLACES = [
    # Beside what is loaded, as many tools would take them.
    *("model/pytorch_model.bin", "model/model.pt", "model/optimizer.bin", "model/tokenizer.pkl"),
    *(f"{CHECKPOINT}/pytorch_model.bin", f"{CHECKPOINT}/training_state/optimizer.pt"),
    # Instead of it.
    *("model/model.safetensors", "model/config.json", "model/generation_config.json"),
    *("model/tokenizer.json", "model/tokenizer.model", "model/tokenizer_config.json"),
    *("model/model.safetensors.index.json", "model/chat_template.jinja"),
    *(f"{CHECKPOINT}/{MANIFEST}", f"{CHECKPOINT}/training_state/state.json"),
    *(f"{CHECKPOINT}/training_state/tensors.json", f"{CHECKPOINT}/training_state/config.yaml"),
    *(f"{CHECKPOINT}/training_state/*.safetensors", f"{CHECKPOINT}/model*.safetensors"),
    *("run/checkpoints/latest", "run/metrics.jsonl", "run/config.yaml", "run.yaml"),
    *("data/agent.jsonl", "data/agent.json", "data/agent.parquet", "data/agent.pkl", "data/agent.npy"),
    # What is kept from one start to the next.
    *("run/data_cache/indexes/*.json", "run/data_cache/indexes/*.places"),
    *("run/data_cache/samples/*/index", "run/data_cache/samples/*/*.bin"),
]


@pytest.mark.parametrize("form", FORMS)
def test_the_payloads_run_where_they_are_unpickled(form: str, tmp_path: Path) -> None:
    write, load = FORMS[form]
    load(write(Payload(tmp_path / "mark")))
    assert (tmp_path / "mark").is_dir()


def test_no_pickle_is_run(
    trials: Trials, straight: Callable[[str], Straight], small_model: Path, tmp_path: Path
) -> None:
    run = straight("TP2")
    held = "it is an error, or is not looked at; it never runs"
    forms = list(FORMS.values())
    for trial in trials("R19 a pickle at a load path", held, few=2, of=len(FORMS) * len(PLACES)):
        write, place = trial.turn(forms)[0], trial.turn(PLACES)
        with trial:
            mark = tmp_path / f"mark-{trial.number}"
            root = planted_root(run, small_model, tmp_path / str(trial.number), place)
            assert plant(root, place, write(Payload(mark))), f"no file is {place}"
            load_all(run, root)
            assert not mark.exists(), f"{place}: a payload was run"
            shutil.rmtree(root)


def code_of(mark: Path) -> str:
    return f"import os\nos.makedirs({str(mark)!r}, exist_ok=True)\nclass Evil: pass\n"


def _config_names_code(root: Path, mark: Path) -> None:
    (root / "model/evil.py").write_text(code_of(mark))
    _update(root / "model/config.json", {"auto_map": dict.fromkeys(("AutoConfig", "AutoModel"), "evil.Evil")})


def _tokenizer_names_code(root: Path, mark: Path) -> None:
    (root / "model/evil.py").write_text(code_of(mark))
    named = {"auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}, "tokenizer_class": "Evil"}
    _update(root / "model/tokenizer_config.json", named)
    (root / "model/chat_template.jinja").write_text("{{ messages }}")


def _template_is_code(root: Path, mark: Path) -> None:
    (root / "model/chat_template.jinja").write_text(
        "{{ cycler.__init__.__globals__.os.makedirs('MARK') }}{{ messages }}".replace("MARK", str(mark))
    )


def _settings_are_code(root: Path, mark: Path) -> None:
    with (root / "run.yaml").open("a") as file:
        file.write(f"wandb: !!python/object/apply:os.makedirs ['{mark}']\n")


def _index_names_a_pickle(root: Path, mark: Path) -> None:
    (root / "model/model.safetensors").rename(root / "model/rest.safetensors")
    (root / "model/pytorch_model.bin").write_bytes(pickle.dumps(Payload(mark)))
    index = {"weight_map": {"model.norm.weight": "pytorch_model.bin"}}
    (root / "model/model.safetensors.index.json").write_text(json.dumps(index))


def _only_a_pickle(root: Path, mark: Path) -> None:
    (root / "model/model.safetensors").unlink()
    (root / "model/pytorch_model.bin").write_bytes(_torch(Payload(mark), True))


CODE = [
    *(_config_names_code, _tokenizer_names_code, _template_is_code, _settings_are_code),
    *(_index_names_a_pickle, _only_a_pickle),
]


def test_no_code_is_run(
    trials: Trials, straight: Callable[[str], Straight], small_model: Path, tmp_path: Path
) -> None:
    run = straight("TP2")
    held = "it is an error, or is not looked at; it never runs"
    for trial in trials("R19 code named by a config, in a template, YAML tags", held, few=1, of=len(CODE)):
        plant_code = trial.turn(CODE)
        with trial:
            mark = tmp_path / f"mark-{trial.number}"
            root = planted_root(run, small_model, tmp_path / str(trial.number), "model")
            plant_code(root, mark)
            load_all(run, root, "data.template=folder")
            load_all(run, root)
            assert not mark.exists(), f"{plant_code.__name__}: a payload was run"
            shutil.rmtree(root)


def _update(file: Path, values: dict[str, Any]) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def planted_root(run: Straight, model: Path, root: Path, place: str) -> Path:
    """A copy of all that a run reads; one without a checkpoint, where something else is read only then."""
    run.at(STEPS - 1, root / "run")
    if not place.startswith("run"):
        shutil.rmtree(root / "run/checkpoints")
    shutil.copytree(model, root / "model")
    (root / "data").mkdir()
    shutil.copyfile(DEMO / "agent.jsonl", root / "data/agent.jsonl")
    shutil.copyfile(run.config, root / "run.yaml")
    return root


def plant(root: Path, place: str, content: bytes) -> list[Path]:
    """Into each file of a place, and into its checkpoint's manifest, which then fits."""
    files = list(root.glob(place)) if "*" in place else [root / place]
    for file in files:
        file.write_bytes(content)
    checkpoint = root / CHECKPOINT
    if place.startswith(CHECKPOINT) and not place.endswith(MANIFEST):
        names = {*read_manifest(checkpoint), *(file.relative_to(checkpoint).as_posix() for file in files)}
        records = {name: read_record(checkpoint / name) for name in names}
        (checkpoint / MANIFEST).write_text(manifest_text(STEPS - 1, records))
    for other in set((root / "data").iterdir()) - set(files) if place.startswith("data") else ():
        other.unlink()
    return files


def load_all(run: Straight, root: Path, *more: str) -> None:
    """The checks before a start, the commands that read, and a start: each may refuse."""
    (data,) = (root / "data").iterdir()
    settings = [*more, f"model.path={root / 'model'}", f"data.sources.0.path={data}"]
    config = [str(root / "run.yaml"), *run.overrides, *settings, f"run.output_dir={root / 'run'}"]
    commands = (["preview", *config], ["lint", *config], ["verify-checkpoint", str(root / CHECKPOINT)])
    for command in commands:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            agenttune(command)
    with contextlib.suppress(ConfigError, DataError):
        settled = load_config(config[0], config[1:])
        check_sources(settled, check_settings(settled, None)[1])
    ended = replace(run, config=root / "run.yaml").start(root / "run", (), *settings)
    assert not ended.hung(), ended.told
    assert ended.code == 0 or len(ended.messages()) == run.ranks, ended.told
