"""What holds for every sample, whatever template made it. Checked each time one is made: it costs microseconds."""

from __future__ import annotations

import numpy as np

from tokenization.conversation import Conversation, Role, runs
from tokenization.sample import SpanKind, TokenizedSample

GIVEN: dict[SpanKind, Role] = {
    SpanKind.SYSTEM: "system",
    SpanKind.USER: "user",
    SpanKind.OBSERVATION: "observation",
}
"""Kinds that the model is given, and whose they are."""


class InvariantError(AssertionError):
    """A template that masks wrongly: never the data's fault."""


def check_sample(sample: TokenizedSample, conversation: Conversation) -> None:
    """Raises InvariantError unless

    - each turn of the assistant has one stop, and it is a target exactly where the turn's last message is trained;
    - no token of a system message, the user's or an observation is a target, unless a message of that role asks for it.

    So a sample with a trained turn has targets: its stop at least.
    """
    name = f"sample {sample.source}:{sample.id}"
    expected = [run[-1].trained for run in runs(conversation.spoken) if run[0].role == "assistant"]
    found = sample.trained[sample.kinds == SpanKind.STOP].tolist()
    if found != expected:
        raise InvariantError(
            f"{name}: {len(found)} stops, {sum(found)} of them targets, for {len(expected)} turns, "
            f"{sum(expected)} of them trained; the template does not mark what ends a turn"
        )
    targets = np.bincount(sample.kinds[sample.trained], minlength=len(SpanKind)).tolist()  # [kinds]
    asked = {message.role for message in conversation.messages if message.trained}
    for kind, role in GIVEN.items():
        if targets[kind] and role not in asked:
            raise InvariantError(
                f"{name}: {targets[kind]} tokens of the {role} are targets, and no message asks for it"
            )
