"""All of a checkpoint that is no tensors: config, tokenizer, template, the settings of the run."""

from __future__ import annotations

from pathlib import Path

from configs.load import save_config
from configs.schema import Config
from tokenization.builder import SampleBuilder
from tokenization.bundle import write_bundle
from trainer.checkpoint.manifest import Records
from trainer.checkpoint.progress import FOLDER
from trainer.checkpoint.tensors import record_of


def write_texts(folder: Path, config: Config, builder: SampleBuilder, vocab: int) -> Records:
    """Write them into `folder` and bring them to the disk; `vocab` is the rows of the embedding that was trained.

    Raises OSError where they cannot be written, or the model's own files cannot be read any more.
    """
    model = Path(config.model.path)
    try:
        write_bundle(model, folder, builder.template, builder.encoder, vocab=vocab, dtype=config.model.dtype)
    except OSError:
        raise
    except Exception as error:  # of a full disk the tokenizers library makes a plain Exception
        raise OSError(f"{folder}: config, tokenizer or template could not be written: {error}") from error
    save_config(config, folder / FOLDER / "config.yaml")
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.suffix != ".safetensors")
    return {file.relative_to(folder).as_posix(): record_of(file) for file in files}
