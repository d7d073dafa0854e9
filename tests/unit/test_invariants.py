"""What every sample must hold is held by the templates, and each breach is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from found_tokenizers import DEMO

from tokenization.builder import SampleBuilder
from tokenization.conversation import Call, Conversation, Message
from tokenization.encoder import Encoder
from tokenization.invariants import GIVEN, InvariantError, check_sample
from tokenization.sample import SpanKind, TokenizedSample
from tokenization.segments import Control, ControlIds, Segment
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
    others = tuple(replace(m, loss=True) if m.role not in (role, "assistant") else m for m in TALK.messages)
    with pytest.raises(InvariantError, match=f"tokens of the {role} are targets"):
        check_sample(learned, replace(TALK, messages=others))


# Templates that mask wrongly are found when the first sample is made.


def without_a_trained_stop(segment: Segment) -> Segment:
    stop = isinstance(segment, Control) and segment.kind is SpanKind.STOP
    return segment._replace(trained=False) if stop else segment


def with_every_stop_trained(segment: Segment) -> Segment:
    stop = isinstance(segment, Control) and segment.kind is SpanKind.STOP
    return segment._replace(trained=True) if stop else segment


def with_stops_as_control(segment: Segment) -> Segment:
    stop = isinstance(segment, Control) and segment.kind is SpanKind.STOP
    return segment._replace(kind=SpanKind.CONTROL) if stop else segment


def with_the_given_trained(segment: Segment) -> Segment:
    if isinstance(segment, Control):
        return segment
    spans = tuple(span._replace(trained=span.trained or span.kind in GIVEN) for span in segment.spans)
    return segment._replace(spans=spans)


FAULTS: dict[Callable[[Segment], Segment], str] = {
    without_a_trained_stop: "3 stops, 0 of them targets, for 3 turns, 2 of them trained",
    with_every_stop_trained: "3 stops, 3 of them targets, for 3 turns, 2 of them trained",
    with_stops_as_control: "0 stops, 0 of them targets",
    with_the_given_trained: "tokens of the system are targets",
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_that_masks_wrongly(name: str, fault: Callable[[Segment], Segment]) -> None:
    template = TEMPLATES[name]

    def render(conversation: Conversation, control: ControlIds, *, generate: bool = False) -> list[Segment]:
        return list(map(fault, template.render(conversation, control, generate=generate)))

    encoder = Encoder.from_folder(DEMO, template.special_tokens)
    assert SampleBuilder(encoder, template).encode(TALK, "s").turns == 3
    with pytest.raises(InvariantError, match=FAULTS[fault]):
        SampleBuilder(encoder, replace(template, render=render)).encode(TALK, "s")


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_that_drops_or_adds_a_stop(name: str) -> None:
    template = TEMPLATES[name]
    encoder = Encoder.from_folder(DEMO, template.special_tokens)
    segments = template.render(TALK, encoder.control)
    place = next(n for n, s in enumerate(segments) if isinstance(s, Control) and s.kind is SpanKind.STOP)
    for wrong, count in (
        ([*segments[:place], *segments[place + 1 :]], 2),
        ([*segments[:place], segments[place], *segments[place:]], 4),
    ):
        with pytest.raises(InvariantError, match=f"{count} stops, 2 of them targets, for 3 turns"):
            check_sample(encoder.encode(wrong, "s", "t"), TALK)


def test_nothing_learned_is_no_fault_where_nothing_is_asked(sample: TokenizedSample) -> None:
    talk = replace(TALK, messages=tuple(replace(m, loss=False) for m in TALK.messages))
    nothing = changed(sample, np.ones(len(sample), bool), False)
    check_sample(nothing, talk)
    with pytest.raises(InvariantError, match="3 stops, 0 of them targets, for 3 turns, 2 of them trained"):
        check_sample(nothing, TALK)
