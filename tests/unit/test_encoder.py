"""Ids with their mask and kinds: by hand, by brute force and as properties; tokenizers found and refused."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from tokenization.borders import attribute
from tokenization.builder import SampleBuilder
from tokenization.conversation import Conversation, Message, Role
from tokenization.encoder import Encoder
from tokenization.errors import DataError, Where
from tokenization.sample import SpanKind, TokenizedSample
from tokenization.segments import Control, Span, Text, joined
from tokenization.templates import prompt
from tokenization.templates.llama2 import LLAMA2

ROOT = Path(__file__).parents[2]
TOKENIZER = ROOT.parent / "shared" / "data" / "llama2_tokenizer"
real = pytest.mark.skipif(
    not TOKENIZER.is_dir(), reason="no real data beside the repository (../shared/data)"
)
WHERE = Where("talks.jsonl", 3)

CONTROL, SYSTEM, USER, TEXT, STOP = (SpanKind[name] for name in ("CONTROL", "SYSTEM", "USER", "TEXT", "STOP"))


def tiny_tokenizer() -> Tokenizer:
    """Llama's kind of tokenizer in small: byte b is b + 3, ▁ is 259."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"[]INSThi"]
    merges = [("▁", "▁"), ("▁", "["), ("I", "N"), ("IN", "S"), ("INS", "T"), ("▁", "h"), ("▁h", "i")]
    pieces += [left + right for left, right in merges]
    vocab = {piece: id for id, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in pieces[:3]])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    return tokenizer


def bytes_tokenizer() -> Tokenizer:
    """Another family: byte-level BPE, where no space is put before a text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["[INST] hi there [/INST] <<SYS>> </SYS>> the answer"] * 3, trainer)
    return tokenizer


@cache
def encoder(name: str) -> Encoder:
    if name == "llama2":
        return Encoder.from_folder(TOKENIZER)
    return Encoder(tiny_tokenizer() if name == "tiny" else bytes_tokenizer())


every_tokenizer = pytest.mark.parametrize("name", ["tiny", "bytes", pytest.param("llama2", marks=real)])


def encode(name: str, conversation: Conversation) -> TokenizedSample:
    segments = LLAMA2.render(conversation, encoder(name).control)
    return encoder(name).encode(segments, "source", conversation.id)


on_any_machine = settings(deadline=None)  # time depends on what else runs


# By hand.


def test_a_conversation_token_by_token() -> None:
    conversation = Conversation(
        "t", (Message("user", "hi ", True), Message("assistant", "</s>é"), Message("user", ""))
    )
    made = encode("tiny", conversation)
    byte = {character: ord(character) + 3 for character in "/<>s"}
    opening = [(269, CONTROL, 0), (272, CONTROL, 0), (261, CONTROL, 0)]  # ▁[ INST ]
    closing = [(byte["/"], CONTROL, 0), (272, CONTROL, 0), (261, CONTROL, 0)]  # / INST ]
    expected = [
        (1, CONTROL, 0),
        *opening,
        (274, USER, 1),  # ▁hi: with the template's space, and still the user's
        (269, CONTROL, 0),
        *closing,
        (259, TEXT, 1),  # ▁
        *[(byte[character], TEXT, 1) for character in "</s>"],
        (0xC3 + 3, TEXT, 1),
        (0xA9 + 3, TEXT, 1),
        (259, TEXT, 1),
        (2, STOP, 1),
        (1, CONTROL, 0),
        *opening,
        (268, CONTROL, 0),  # ▁▁: nothing of the user's lies between the two spaces
        (260, CONTROL, 0),
        *closing,
    ]
    assert made.tokens.tolist() == [token for token, _, _ in expected]
    assert made.kinds.tolist() == [kind for _, kind, _ in expected]
    assert made.trained.tolist() == [bool(trained) for _, _, trained in expected]
    assert (made.turns, made.targets) == (1, 10)
    assert (made.tokens.dtype, made.kinds.dtype, made.trained.dtype) == ("int32", "uint8", "bool")
    assert (made.source, made.id, len(made)) == ("source", "t", 27)


def test_ids_and_sizes() -> None:
    tiny = encoder("tiny")
    assert (tiny.vocab_size, tiny.bos, tiny.eos, tiny.pad_id) == (275, 1, 2, 0)
    assert Encoder(tiny_tokenizer(), pad="</s>").pad_id == 2
    assert Encoder(bytes_tokenizer()).pad_id == 0


def test_vocab_size_is_the_largest_id_and_one_more() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["<extra>"])
    assert Encoder(tokenizer).vocab_size == 276


def test_truncation_and_padding_stored_with_a_tokenizer_are_ignored() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=64)
    segments = [Control(1, CONTROL), joined(("hihihi", TEXT, True))]
    assert len(Encoder(tokenizer).encode(segments, "s", "t")) == 1 + 6  # h i h i h i


def test_the_first_token_is_never_a_target() -> None:
    for segments in ([], [joined(("hi", TEXT, True))]):
        with pytest.raises(AssertionError, match="internal: sample s:t does not begin"):
            encoder("tiny").encode(segments, "s", "t")


# By brute force.


@on_any_machine
@given(st.data())
def test_attribution_by_brute_force(data: st.DataObject) -> None:
    """Any spans, any offsets: a token is the content's that it overlaps, else the template's."""
    kinds = st.sampled_from([SYSTEM, USER, TEXT])
    parts: list[tuple[str, SpanKind, bool]] = []
    for _ in range(data.draw(st.integers(1, 3))):
        parts.append(("m" * data.draw(st.integers(1, 4)), CONTROL, False))
        parts.append(("c" * data.draw(st.integers(0, 4)), data.draw(kinds), data.draw(st.booleans())))
    text = joined(*parts, ("m", CONTROL, False))
    length = len(text.text)
    owner = [span for span in text.spans for _ in range(span.start, span.stop)]
    starts = data.draw(st.lists(st.integers(0, length), max_size=6))
    offsets = [(start, min(length, start + data.draw(st.integers(0, 3)))) for start in starts]
    for (start, stop), at in zip(offsets, attribute(text.spans, offsets), strict=True):
        touched = owner[start:stop] or [owner[min(start, length - 1)]]
        contents = [span for span in touched if span.kind is not CONTROL]
        expected = contents[-1] if contents else touched[0]
        assert (text.spans[at].kind, text.spans[at].trained) == (expected.kind, expected.trained)


def test_bytes_of_one_character_share_its_span() -> None:
    text = Text("a🙂b", (Span(0, 1, CONTROL, False), Span(1, 2, USER, True), Span(2, 3, CONTROL, False)))
    offsets = [(0, 1), (1, 2), (1, 2), (1, 2), (1, 2), (2, 3)]
    assert attribute(text.spans, offsets).tolist() == [0, 1, 1, 1, 1, 2]


# Properties, with every tokenizer.

# ▁ itself is left out: Llama's tokenizers read it as a space, in SentencePiece too.
characters = st.characters(exclude_categories=["Cs"], exclude_characters="▁")
contents = st.lists(
    st.text(characters, max_size=8)
    | st.sampled_from(["hi", "  ", "\n", "</s>", "<s>", "<unk>", "[INST]", "[/INST]", "你好", "🙂👩‍🚀"]),
    max_size=4,
).map("".join)
losses = st.sampled_from([None, None, True, False])


@st.composite
def conversations(draw: st.DrawFn) -> Conversation:
    messages = [Message("system", draw(contents), draw(losses))] if draw(st.booleans()) else []
    roles: tuple[Role, Role] = ("user", "assistant")
    for turn in range(draw(st.integers(1, 5))):
        messages.append(Message(roles[turn % 2], draw(contents), draw(losses)))
    return Conversation("t", tuple(messages))


def runs(made: TokenizedSample) -> list[tuple[int, bool, list[int]]]:
    """Tokens grouped while kind and mask stay the same."""
    grouped: list[tuple[int, bool, list[int]]] = []
    for token, kind, trained in zip(
        made.tokens.tolist(), made.kinds.tolist(), made.trained.tolist(), strict=True
    ):
        if not grouped or grouped[-1][:2] != (kind, trained):
            grouped.append((kind, trained, []))
        grouped[-1][2].append(token)
    return grouped


@every_tokenizer
@on_any_machine
@given(conversation=conversations())
def test_trained_tokens_are_the_answers_and_nothing_else(name: str, conversation: Conversation) -> None:
    made = encode(name, conversation)
    answers = [message for message in conversation.messages if message.role == "assistant"]
    assert made.tokens.tolist().count(encoder(name).eos) == len(answers) == made.turns
    learned = [message.content.strip() for message in answers if message.loss is not False]
    texts = [encoder(name).texts(ids) for kind, trained, ids in runs(made) if kind == TEXT and trained]
    assert texts == [[f" {answer} "] for answer in learned]
    stops = made.kinds == STOP
    assert (made.tokens[stops] == encoder(name).eos).all()
    assert (stops & made.trained).sum() == len(learned)
    assert not made.trained[made.kinds == CONTROL].any()


@every_tokenizer
@on_any_machine
@given(conversation=conversations())
def test_loss_on_other_messages_trains_exactly_their_contents(name: str, conversation: Conversation) -> None:
    made = encode(name, conversation)
    for role, kind in (("system", SYSTEM), ("user", USER)):
        told = [message.content for message in conversation.messages if message.role == role and message.loss]
        texts = [encoder(name).decode(ids) for k, trained, ids in runs(made) if k == kind and trained]
        assert [t.strip() for t in texts if t.strip()] == [t.strip() for t in told if t.strip()]


@every_tokenizer
@on_any_machine
@given(conversation=conversations())
def test_ids_before_every_answer_are_the_prompts_ids(name: str, conversation: Conversation) -> None:
    made = encode(name, conversation)
    ends = [*np.flatnonzero(made.kinds == STOP) + 1]
    numbers = [n for n, message in enumerate(conversation.messages) if message.role == "assistant"]
    for turn, number in enumerate(numbers):
        before = encoder(name).encode(
            prompt(conversation.messages[:number], encoder(name).control, LLAMA2), "inference", "t"
        )
        assert made.tokens[: len(before)].tolist() == before.tokens.tolist()
        answer = made.kinds[len(before) : ends[turn]].tolist()
        assert answer == [TEXT] * (len(answer) - 1) + [STOP]


@every_tokenizer
@on_any_machine
@given(conversation=conversations())
def test_pieces_join_to_the_whole_text(name: str, conversation: Conversation) -> None:
    made = encode(name, conversation)
    pieces = encoder(name).pieces(made.tokens)
    assert "".join(piece.text for piece in pieces) == encoder(name).decode(made.tokens)
    assert [n for piece in pieces for n in range(piece.start, piece.stop)] == list(range(len(made)))


def test_pieces_keep_the_bytes_of_a_character_together() -> None:
    smile = [byte + 3 for byte in "🙂".encode()]
    pieces = encoder("tiny").pieces([266, *smile, 266, smile[0]])
    assert [tuple(piece) for piece in pieces] == [(0, 1, "h"), (1, 5, "🙂"), (5, 6, "h"), (6, 7, "\ufffd")]


# From row to sample.


def test_builder() -> None:
    row = {"id": 5, "conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hi"}]}
    builder = SampleBuilder(encoder("tiny"))
    made = builder.build(row, source="talk", format="auto", where=WHERE, default_id="x")
    conversation = Conversation("5", (Message("user", "hi"), Message("assistant", "hi")))
    assert (made.source, made.id) == ("talk", "5")
    assert made.tokens.tolist() == encode("tiny", conversation).tokens.tolist()
    with_default = SampleBuilder(encoder("tiny"), system_prompt="S")
    made = with_default.build(row, source="talk", format="auto", where=WHERE, default_id="x")
    assert made.tokens.tolist() == encode("tiny", conversation.with_system("S")).tokens.tolist()
    own = {"messages": [{"role": "system", "content": "T"}, {"role": "user", "content": "hi"}]}
    made = with_default.build(own, source="talk", format="auto", where=WHERE, default_id="x")
    expected = Conversation("x", (Message("system", "T"), Message("user", "hi")))
    assert made.tokens.tolist() == encode("tiny", expected).tokens.tolist()
    with pytest.raises(DataError, match=r"talks\.jsonl:3: row is a list"):
        builder.build([], source="talk", format="auto", where=WHERE, default_id="x")
