"""What every sample must hold is held by the templates, and each breach is told."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from found_tokenizers import DEMO

from tokenization.conversation import Call, Conversation, Message
from tokenization.encoder import Encoder
from tokenization.invariants import InvariantError, check_sample
from tokenization.sample import SpanKind, TokenizedSample
from tokenization.templates import TEMPLATES

TALK = Conversation(
    "t",
    (
        Message("system", "S"),
        Message("user", "hi"),
        Message("assistant", "ok", False),
        Message("user", "what?"),
        Message("assistant", "I look.", calls=(Call.of("f", {}),)),
        Message("observation", "5"),
        Message("assistant", "It is 5."),
    ),
)


@pytest.fixture(params=TEMPLATES)
def sample(request: pytest.FixtureRequest) -> TokenizedSample:
    template = TEMPLATES[request.param]
    encoder = Encoder.from_folder(DEMO, template.special_tokens)
    return encoder.encode(template.render(TALK, encoder.control), "s", "t")


def changed(sample: TokenizedSample, where: np.ndarray, trained: bool) -> TokenizedSample:
    mask = sample.trained.copy()
    mask[where] = trained
    return replace(sample, trained=mask)


def test_what_the_templates_make_holds(sample: TokenizedSample) -> None:
    check_sample(sample, TALK)
    stops = sample.trained[sample.kinds == SpanKind.STOP].tolist()
    assert stops == [False, True, True]


def test_a_stop_that_is_not_learned(sample: TokenizedSample) -> None:
    """The fault of peers: endless generation."""
    last = np.flatnonzero(sample.kinds == SpanKind.STOP)[-1]
    with pytest.raises(InvariantError, match="3 stops, 1 of them targets, for 3 turns, 2 of them trained"):
        check_sample(changed(sample, last, False), TALK)


def test_a_stop_of_a_turn_that_is_not_learned(sample: TokenizedSample) -> None:
    first = np.flatnonzero(sample.kinds == SpanKind.STOP)[0]
    with pytest.raises(InvariantError, match="3 stops, 3 of them targets"):
        check_sample(changed(sample, first, True), TALK)


def test_no_stop_at_all(sample: TokenizedSample) -> None:
    kinds = np.where(sample.kinds == SpanKind.STOP, SpanKind.TEXT, sample.kinds).astype(np.uint8)
    with pytest.raises(InvariantError, match="s:t: 0 stops, 0 of them targets, for 3 turns"):
        check_sample(replace(sample, kinds=kinds), TALK)


@pytest.mark.parametrize(
    ("kind", "role"),
    [(SpanKind.SYSTEM, "system"), (SpanKind.USER, "user"), (SpanKind.OBSERVATION, "observation")],
)
def test_given_tokens_are_targets_only_where_a_message_asks(
    kind: SpanKind, role: str, sample: TokenizedSample
) -> None:
    learned = changed(sample, sample.kinds == kind, True)
    with pytest.raises(InvariantError, match=f"tokens of the {role} are targets, and no message asks for it"):
        check_sample(learned, TALK)
    asked = tuple(replace(m, loss=True) if m.role == role else m for m in TALK.messages)
    check_sample(learned, replace(TALK, messages=asked))
