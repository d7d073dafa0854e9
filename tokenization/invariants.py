"""What holds for every sample, whatever template made it. Checked each time one is made: it costs microseconds."""

from __future__ import annotations

import numpy as np

from tokenization.conversation import Conversation, Role, runs
from tokenization.sample import SpanKind, TokenizedSample

_GIVEN: dict[SpanKind, Role] = {
    SpanKind.SYSTEM: "system",
    SpanKind.USER: "user",
    SpanKind.OBSERVATION: "observation",
}


class InvariantError(AssertionError):
    """A template that masks wrongly: never the data's fault."""


def check_sample(sample: TokenizedSample, conversation: Conversation) -> None:
    """Raises InvariantError unless

    - each turn of the assistant has one stop, and it is a target exactly where the turn's last message is trained;
    - no token of a system message, the user's or an observation is a target, unless a message of that role asks for it;
    - a sample with a trained turn has targets.
    """
    name = f"sample {sample.source}:{sample.id}"
    stops = sample.kinds == SpanKind.STOP
    expected = [run[-1].trained for run in runs(conversation.spoken) if run[0].role == "assistant"]
    found = sample.trained[stops].tolist()
    if found != expected:
        raise InvariantError(
            f"{name}: {len(found)} stops, {sum(found)} of them targets, for {len(expected)} turns, "
            f"{sum(expected)} of them trained; the template does not mark what ends a turn"
        )
    for kind, role in _GIVEN.items():
        trained = np.count_nonzero(sample.trained & (sample.kinds == kind))
        if trained and not any(m.trained for m in conversation.messages if m.role == role):
            raise InvariantError(
                f"{name}: {trained} tokens of the {role} are targets, and no message asks for it"
            )
    if any(expected) and not sample.targets:
        raise InvariantError(f"{name}: {sum(expected)} trained turns and no target")
