from __future__ import annotations

from pathlib import Path

import pytest
from tiny import write_model


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float32 model of 4 layers with an untied head and the demo tokenizer."""
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def tied_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("tied_model"), tie_word_embeddings=True)
