"""A row of data to a tokenized sample, in one call."""

from __future__ import annotations

from dataclasses import dataclass

from tokenization.encoder import Encoder
from tokenization.errors import Where
from tokenization.formats import parse_row
from tokenization.sample import TokenizedSample
from tokenization.templates import template_named


@dataclass(frozen=True)
class SampleBuilder:
    encoder: Encoder
    template: str = "llama2"
    system_prompt: str | None = None
    """Given to conversations that bring no system message of their own."""

    def __post_init__(self) -> None:
        template_named(self.template)

    def build(
        self, row: object, *, source: str, format: str, where: Where, default_id: str
    ) -> TokenizedSample:
        """Parses, renders and encodes one row. Raises DataError, naming `where`, if it is no conversation."""
        conversation = parse_row(row, format=format, where=where, default_id=default_id)
        if self.system_prompt is not None:
            conversation = conversation.with_system(self.system_prompt)
        segments = template_named(self.template)(conversation, self.encoder.control)
        return self.encoder.encode(segments, source, conversation.id)
