"""A model folder's own chat template: rendered by transformers, masked by comparing prompts.

Nothing is known of such a template but what it writes. So a turn's beginning is found where the prompt of the messages
before it ends, and the turn ends with the last control token that the template writes for it. Where the prompt is not a
beginning of the training text, the template trains on something else than it serves, and the conversation is refused.

The template's control tokens are told from the same characters in data: before rendering, those in data are put under
an escape, and only what then still spells a control token is one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenization.conversation import Conversation, Message, runs
from tokenization.encoder import Encoder
from tokenization.grammar.tagged import parse_turn
from tokenization.sample import SpanKind
from tokenization.segments import Control, ControlIds, RenderError, Segment, Text, joined
from tokenization.templates.messages import chat_messages, chat_tools
from tokenization.templates.template import Template
from tokenization.tokenizer_files import prefix_scheme

NAME = "model"
_ESCAPE = "\ufdd0"  # a noncharacter: no text needs it, and where one has it, it is escaped itself
_PLACEHOLDERS = 0x100000  # the first character of the last private plane
_KINDS = {"system": SpanKind.SYSTEM, "user": SpanKind.USER, "observation": SpanKind.OBSERVATION}

_DAY = "26 Jul 2024"
"""What a template takes for today that writes the date, as Llama 3's do: samples must not change from one day to the
next. It is the day that they write themselves where there is no clock."""
_Stretch = tuple[int, int, SpanKind, bool]
"""Characters of the rendered text, from and to (exclusive): what they are, and whether they are targets."""


def folder_template(path: Path) -> tuple[Template, Encoder]:
    """The chat template and the tokenizer of a model folder, as transformers reads both. No code of it is run.

    Raises ValueError where it has no template, or one that ends no turn.
    """
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    if not isinstance(tokenizer.chat_template, str):
        count = (
            f"{len(tokenizer.chat_template)} chat templates"
            if tokenizer.chat_template
            else "no chat template"
        )
        raise ValueError(f"{path} has {count}, one is needed; use data.template=llama2, chatglm3 or chatml")
    if "strftime_now" in tokenizer.chat_template and "date_string" not in tokenizer.chat_template:
        raise ValueError(
            f"{path}: its chat template writes today's date (strftime_now), so samples would change from day to day; "
            "write a fixed date into a copy of it, or use data.template=llama2, chatglm3 or chatml"
        )
    control = {str(token): id for id, token in tokenizer.added_tokens_decoder.items() if token.special}
    own = _FolderTemplate(tokenizer, control, prefix_scheme(tokenizer.backend_tokenizer) == "first")
    stop = own.stop()
    encoder = Encoder(
        tokenizer.backend_tokenizer,
        bos=tokenizer.bos_token or stop,
        eos=tokenizer.eos_token or stop,
        pad=tokenizer.pad_token,
        special=tuple(control),
        own_prefix=True,
    )
    template = Template(
        name=NAME,
        render=own.render,
        parse=lambda parts: parse_turn("".join(parts)),
        chat_template=tokenizer.chat_template,
        stop_tokens=() if stop == tokenizer.eos_token else (stop,),
    )
    return template, encoder


@dataclass(frozen=True)
class _FolderTemplate:
    tokenizer: Any
    """transformers' own."""
    control: Mapping[str, int]
    """Its control tokens."""
    leads: bool
    """It puts a space before a text that stands at the very beginning, and there alone."""

    def render(
        self, conversation: Conversation, control: ControlIds, *, generate: bool = False
    ) -> list[Segment]:
        """The template's text as segments. Raises RenderError where the template refuses the conversation, or where
        what it trains on does not begin with what it serves."""
        safe = _one_message_a_turn(conversation.map_text(self._escape))
        text = self._text(safe, len(safe.messages), generate)
        turns = [
            self._turn(safe, place, text) for place, m in enumerate(safe.messages) if m.role == "assistant"
        ]
        if safe.tools and text == self._text(replace(safe, tools=()), len(safe.messages), generate):
            raise RenderError(
                "the model's chat template does not write out the tools; use another data.template"
            )
        stretches = [*self._given(safe, text, generate), *(stretch for turn in turns for stretch in turn)]
        prompts = [turn[0][0] for turn in turns]
        segments = list(self._segments(text, _filled(sorted(stretches), len(text)), prompts))
        words = {id: word for word, id in self.control.items()}
        written = "".join(words[s.id] if isinstance(s, Control) else s.text for s in segments)
        if written != self._restore(text):
            raise AssertionError(
                f"internal: conversation {conversation.id} is not divided as it was rendered"
            )
        return [_led(segments[0]), *segments[1:]] if self.leads else segments

    def stop(self) -> str:
        """The token that ends a turn."""
        asked = Conversation("probe", (Message("user", "a"), Message("assistant", "b")))
        prompt, text = self._text(asked, 1, True), self._text(asked, 2, False)
        if not text.startswith(prompt):
            raise RenderError(
                "the model's chat template writes the assistant's turn in training otherwise than it is prompted for; "
                "use another data.template"
            )
        return self._last_control(text, len(prompt))[0]

    def _text(self, conversation: Conversation, count: int, generate: bool) -> str:
        """The first `count` messages as the template writes them."""
        try:
            return self.tokenizer.apply_chat_template(
                chat_messages(conversation.messages[:count]),
                tools=chat_tools(conversation.tools),
                tokenize=False,
                add_generation_prompt=generate,
                date_string=_DAY,
            )
        except Exception as error:  # whatever a template raises
            reason = " ".join(str(error).split())[:200]
            raise RenderError(f"the model's chat template refuses the conversation: {reason}") from None

    def _turn(self, conversation: Conversation, place: int, text: str) -> list[_Stretch]:
        """A turn of the assistant in the rendered text: its parts by kind, its marks, and its stop."""
        prompt = self._text(conversation, place, True)
        turn = self._text(conversation, place + 1, False)
        if not (turn.startswith(prompt) and text.startswith(turn)):
            raise RenderError(
                f"the model's chat template writes message {place + 1} in training otherwise than it is prompted for; "
                "use another data.template"
            )
        message = conversation.messages[place]
        word, end = self._last_control(turn, len(prompt))
        stop = end - len(word)
        wanted = [(message.content.strip(), SpanKind.TEXT)]
        for call in message.calls:
            arguments = SpanKind.ARGUMENTS if call.code is None else SpanKind.CODE
            wanted += [(call.name, SpanKind.CALL_NAME), (call.arguments, arguments)]
        found: list[_Stretch] = []
        at = len(prompt)
        for words, kind in wanted:
            start = text.find(words, at, stop)
            if start >= 0:
                if words:
                    found.append((start, start + len(words), kind, message.trained))
                at = start + len(words)
            elif kind in (
                SpanKind.TEXT,
                SpanKind.CALL_NAME,
            ):  # arguments may be written in another way than ours
                raise RenderError(
                    f"the model's chat template does not write out {words[:40]!r} of message {place + 1}; "
                    "use another data.template"
                )
        marks = _filled(found, stop, len(prompt), message.trained)
        return [*marks, (stop, end, SpanKind.STOP, message.trained)]

    def _given(self, conversation: Conversation, text: str, generate: bool) -> list[_Stretch]:
        """Where the other messages stand, found by rendering the conversation with a placeholder for each of them.

        Without a place where the template writes one otherwise than its placeholder, in which case none may be a
        target. Raises RenderError for a message that is not written out.
        """
        given = {
            place: m for place, m in enumerate(conversation.messages) if m.role != "assistant" and m.content
        }
        for place, message in given.items():
            if message.content.strip() not in text:
                raise RenderError(f"the model's chat template does not write out message {place + 1}")
        marked = [
            replace(m, content=_ESCAPE + chr(_PLACEHOLDERS + place)) if place in given else m
            for place, m in enumerate(conversation.messages)
        ]
        try:
            outline = self._text(replace(conversation, messages=tuple(marked)), len(marked), generate)
        except RenderError:
            outline = ""
        pieces = re.split(f"{_ESCAPE}([{chr(_PLACEHOLDERS)}-\U0010fffd])", outline)
        found: list[_Stretch] = []
        at = len(pieces[0])
        for mark, piece in zip(pieces[1::2], pieces[2::2], strict=True):
            message = given[ord(mark) - _PLACEHOLDERS]
            words = next(
                (w for w in (message.content, message.content.strip()) if text.startswith(w + piece, at)),
                None,
            )
            if words is None:
                break
            if words:
                found.append((at, at + len(words), _KINDS[message.role], message.trained))
            at += len(words) + len(piece)
        if at == len(text) and len(pieces) // 2 == len(given):
            return found
        if any(message.trained for message in given.values()):
            raise RenderError("the model's chat template hides where a message stands that 'loss' asks for")
        return []

    def _segments(
        self, text: str, stretches: Sequence[_Stretch], prompts: Sequence[int]
    ) -> Iterator[Segment]:
        """The stretches, which cover the text, as control tokens and texts, what is escaped restored.

        `prompts`: where prompts end.
        """
        at = 0
        for word, start, stop in [*self._words(text, 0), ("", len(text), len(text))]:
            parts = [
                (self._restore(text[max(first, at) : min(last, start)]), kind, trained)
                for first, last, kind, trained in stretches
                if first < start and last > at
            ]
            if parts:
                end = next((len(self._restore(text[at:end])) for end in prompts if at < end < start), None)
                yield joined(*parts)._replace(prompt_end=end)
            if word:
                _, _, kind, trained = next(s for s in stretches if s[0] <= start < s[1])
                kind = kind if kind is SpanKind.STOP else SpanKind.CONTROL
                yield Control(self.control[word], kind, trained)
            at = stop

    def _last_control(self, text: str, start: int) -> tuple[str, int]:
        """The last control token after `start`, and where it ends."""
        words = list(self._words(text, start))
        if not words:
            raise RenderError(
                "the model's chat template writes no control token after the assistant's turn, so the model would "
                "never learn to stop; use another data.template"
            )
        word, _, stop = words[-1]
        return word, stop

    def _words(self, text: str, start: int) -> Iterator[tuple[str, int, int]]:
        """Control tokens from `start` on, each with where it begins and ends."""
        return ((found[0], found.start(), found.end()) for found in self._pattern.finditer(text, start))

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile("|".join(map(re.escape, sorted(self.control, key=len, reverse=True))))

    def _escape(self, text: str) -> str:
        words = list(self.control)
        text = text.replace(_ESCAPE, _ESCAPE + "\ue000")
        return self._pattern.sub(lambda found: _ESCAPE + chr(0xE001 + words.index(found[0])), text)

    def _restore(self, text: str) -> str:
        words = [_ESCAPE, *self.control]
        return re.sub(f"{_ESCAPE}(.)", lambda found: words[ord(found[1]) - 0xE000], text)


def _led(segment: Segment) -> Segment:
    """The first segment with the space that the tokenizer begins a text with, unless it has one."""
    if isinstance(segment, Control) or segment.text.startswith((" ", "▁")):
        return segment
    spans = tuple(span._replace(start=span.start + 1, stop=span.stop + 1) for span in segment.spans)
    first = spans[0]._replace(start=0)
    end = segment.prompt_end
    return Text(f" {segment.text}", (first, *spans[1:]), end if end is None else end + 1)


def _one_message_a_turn(conversation: Conversation) -> Conversation:
    """The assistant's messages in a row as one, which is what templates know. Raises RenderError where some of them are
    trained and others not."""
    merged: list[Message] = list(
        conversation.messages[: len(conversation.messages) - len(conversation.spoken)]
    )
    for run in runs(conversation.spoken):
        if run[0].role != "assistant" or len(run) == 1:
            merged += run
            continue
        if len({message.trained for message in run}) > 1:
            raise RenderError(
                "messages of one turn have different 'loss', which the model's chat template cannot tell apart; give "
                "them one, or use another data.template"
            )
        content = "\n".join(message.content for message in run if message.content)
        calls = tuple(call for message in run for call in message.calls)
        merged.append(replace(run[0], content=content, calls=calls))
    return replace(conversation, messages=tuple(merged))


def _filled(stretches: Sequence[_Stretch], end: int, start: int = 0, trained: bool = False) -> list[_Stretch]:
    """The stretches, ascending, with the template's own characters between them from `start` to `end`."""
    filled: list[_Stretch] = []
    at = start
    for stretch in stretches:
        if stretch[0] < at:
            raise AssertionError("internal: two stretches of a rendered conversation overlap")
        if stretch[0] > at:
            filled.append((at, stretch[0], SpanKind.CONTROL, trained))
        filled.append(stretch)
        at = stretch[1]
    return [*filled, (at, end, SpanKind.CONTROL, trained)] if at < end else filled
