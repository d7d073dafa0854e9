"""All of a checkpoint that is no tensors: config, tokenizer, template, the settings of the run."""

from __future__ import annotations

from pathlib import Path

from configs.load import save_config
from configs.schema import Config
from tokenization.builder import SampleBuilder
from tokenization.bundle import write_bundle
from trainer.checkpoint.manifest import Records
from trainer.checkpoint.progress import FOLDER, model_digest
from trainer.checkpoint.tensors import record_of


def write_texts(folder: Path, config: Config, builder: SampleBuilder, vocab: int, digest: str) -> Records:
    """Write them into `folder` and bring them to the disk; `vocab` is the rows of the embedding that was trained.

    Raises OSError where they cannot be written, or the model's own files cannot be read any more or have another
    `model_digest` than `digest`: what was trained is not what they tell.
    """
    model = Path(config.model.path)
    if model_digest(model) != digest:
        raise OSError(
            f"{model}: its config.json, tokenizer or chat template was changed since this run began; put it back, and "
            "start again"
        )
    try:
        write_bundle(model, folder, builder.template, builder.encoder, vocab=vocab, dtype=config.model.dtype)
        save_config(config, folder / FOLDER / "config.yaml")
        return {file.relative_to(folder).as_posix(): record_of(file) for file in _texts(folder)}
    except Exception as error:  # of a full disk the tokenizers library makes a plain Exception
        written = sum(file.stat().st_size for file in _texts(folder))
        said = f"{written:,} bytes of config, tokenizer and template were written, then: {error}"
        raise OSError(f"{folder}: {said}") from error


def _texts(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file() and file.suffix != ".safetensors")
