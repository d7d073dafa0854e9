"""A row of data to a tokenized sample: parse, settle, render, encode, check."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path

from tokenization import control_text, length
from tokenization.conversation import Conversation
from tokenization.encoder import Encoder
from tokenization.errors import DataError, Where
from tokenization.formats import parse_row
from tokenization.invariants import check_sample
from tokenization.sample import TokenizedSample
from tokenization.segments import RenderError
from tokenization.templates.llama2 import LLAMA2
from tokenization.templates.template import Template


@dataclass(frozen=True)
class SampleBuilder:
    encoder: Encoder
    """With the template's control tokens."""
    template: Template = LLAMA2
    system_prompt: str | None = None
    """Given to conversations that bring no system message of their own."""
    control_text: control_text.Policy = "refuse"

    @cached_property
    def fingerprint(self) -> str:
        """32 hex digits of all that a row's tokens and mask follow from: tokenizer, template, policies, and the code of
        this package and the libraries under it. Samples kept under another one are of no use."""
        digest = blake2b(digest_size=16)
        folder = Path(__file__).parent
        for file in sorted(f for f in folder.rglob("*") if f.suffix in (".py", ".jinja")):
            digest.update(str(file.relative_to(folder)).encode() + file.read_bytes())
        settings = [self.template.name, self.template.chat_template, self.system_prompt, self.control_text]
        settings += [version(library) for library in ("tokenizers", "transformers", "jinja2")]
        digest.update(json.dumps([*settings, self.encoder.state()]).encode())
        return digest.hexdigest()

    def conversation(self, row: object, *, format: str, where: Where, default_id: str) -> Conversation:
        """One row as it is rendered. Raises DataError, naming `where`, for no conversation or refused control text."""
        conversation = parse_row(row, format=format, where=where, default_id=default_id)
        if self.system_prompt is not None:
            conversation = conversation.with_system(self.system_prompt)
        with _at(where):
            return control_text.settle(conversation, self.template.control_text, self.control_text)

    def encode(self, conversation: Conversation, source: str) -> TokenizedSample:
        """The whole conversation as tokens. Raises RenderError for what the template cannot write."""
        segments = self.template.render(conversation, self.encoder.control)
        sample = self.encoder.encode(segments, source, conversation.id)
        check_sample(sample, conversation)
        return sample

    def build(
        self, row: object, *, source: str, format: str, where: Where, default_id: str
    ) -> TokenizedSample:
        """The whole sample of one row. Raises DataError, naming `where`."""
        conversation = self.conversation(row, format=format, where=where, default_id=default_id)
        with _at(where):
            return self.encode(conversation, source)

    def fitted(
        self,
        row: object,
        *,
        source: str,
        format: str,
        where: Where,
        default_id: str,
        capacity: int,
        too_long: length.Policy,
    ) -> length.Fitted:
        """The samples one row gives to training, at most `capacity` tokens each. Raises DataError, naming `where`."""
        conversation = self.conversation(row, format=format, where=where, default_id=default_id)
        with _at(where):
            return length.fit(conversation, lambda c: self.encode(c, source), capacity, too_long)


@contextmanager
def _at(where: Where) -> Iterator[None]:
    """A conversation that cannot be rendered is the data's fault, and has a place."""
    try:
        yield
    except RenderError as error:
        raise DataError(str(error), where) from None
