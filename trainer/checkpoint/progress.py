"""Where a checkpointed run stands. No torch here: it is read before any rank starts."""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from configs.errors import ConfigError
from configs.layout import Layout
from configs.schema import Config
from trainer.data.identity import from_weights

FOLDER = "training_state"
TOKENIZER = (
    *("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "added_tokens.json"),
    "chat_template.jinja",
)
"""All that may change what a conversation becomes."""
STATE = "state.json"
TENSORS = "tensors.json"


@dataclass(frozen=True)
class Progress:
    """The state after `step` optimizer steps, written to training_state/state.json."""

    step: int
    steps: int
    """Of the whole run, as planned when this was written."""
    cursor: dict[str, Any]
    """The stream's place after the last row of that step."""
    layout: Layout
    """Of the run that wrote this; another may go on from it."""
    rows: int
    """Per step."""
    model: str
    """`model_digest` of the folder the run began with."""
    guard: dict[str, Any]
    """`trainer.guard.Guard` after that step; says how many of the steps updated nothing."""
    random: list[dict[str, str]]
    """`trainer.random_states.random_states` of each rank."""
    wandb_id: str | None = None
    began: str | None = None
    """Where the run did: the absolute path of another run's checkpoint; None for the model's folder."""


def model_digest(folder: Path) -> str:
    """32 hex digits of a model folder's config, tokenizer and chat template: what a run must not change under way."""
    digest = blake2b(digest_size=16)
    for name in ("config.json", *TOKENIZER):
        file = folder / name
        digest.update(name.encode() + (file.read_bytes() if file.is_file() else b""))
    return digest.hexdigest()


def read_progress(folder: Path, config: Config, model: str) -> Progress:
    """model: `model_digest` of the folder the run begins with

    Raises ConfigError where the folder holds no training state, or one that this run cannot go on from.

    That is one of another number of rows per step, or another model's config or tokenizer. The layout may be another.
    """
    for name in (STATE, TENSORS):
        if not (folder / FOLDER / name).is_file():
            raise ConfigError(
                f"{folder} has no {FOLDER}/{name}: it is no checkpoint to resume; set model.path to it"
            )
    values = json.loads((folder / FOLDER / STATE).read_text(encoding="utf-8"))
    try:
        progress = Progress(**values | {"layout": Layout(**values["layout"])})
    except (KeyError, TypeError):
        raise ConfigError(
            f"{folder}: its {FOLDER}/{STATE} is another version's of agenttune; go on with that version, "
            f"{from_weights(folder)}"
        ) from None
    if progress.rows != config.batch.rows:
        raise ConfigError(
            f"batch.rows={config.batch.rows} but {folder} was written with {progress.rows}: its steps would count "
            f"other rows; set it back, {from_weights(folder)}"
        )
    if progress.model != model:
        raise ConfigError(
            f"model.path={config.model.path}: its config.json, tokenizer or chat template is not the one that "
            f"{folder} was trained with; put it back as it was, name the one it was trained with, or start afresh with "
            "checkpoint.resume=never"
        )
    return progress


def began_with(folder: Path) -> str | None:
    """Where the run of a checkpoint of ours began, as in `Progress`; None too where it cannot be read."""
    try:
        return json.loads((folder / FOLDER / STATE).read_bytes())["began"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def is_doubtful(folder: Path) -> bool:
    """Whether a checkpoint was written while steps were left out: the step before those may have spoilt the weights."""
    try:
        return json.loads((folder / FOLDER / STATE).read_bytes())["guard"]["in_a_row"] > 0
    except (OSError, ValueError, KeyError, TypeError):
        return False


def nothing_to_do(done: int, steps: int | None) -> str | None:
    """What to say of a run whose steps are all done; None where some are left, or nobody knows yet (`steps` None)."""
    if steps is None or done < steps:
        return None
    return f"nothing to do: {done} of {steps} steps are done; raise train.steps or train.epochs to go on"
