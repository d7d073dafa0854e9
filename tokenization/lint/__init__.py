"""Faults in agent data, conversation by conversation: pure rules, each with a name and a severity.

Messages are counted from 1 in the conversation as it was read, a system text of the row included.
"""

from __future__ import annotations

from hashlib import blake2b

from tokenization.conversation import Conversation
from tokenization.length import Fitted
from tokenization.lint.calls import call_faults, result_faults, tool_faults
from tokenization.lint.finding import Finding, counted, finding
from tokenization.lint.schemas import read_tools
from tokenization.lint.texts import Marks, answer_faults, mark_faults
from tokenization.sample import TokenizedSample


def lint_conversation(conversation: Conversation, marks: Marks) -> list[Finding]:
    """What is wrong with a conversation that was not given the config's system prompt: first of its tools, then in
    the order of its messages."""
    tools = read_tools(conversation.tools)
    found = [
        *tool_faults(tools),
        *call_faults(conversation.messages, tools),
        *result_faults(conversation),
        *mark_faults(conversation, marks),
        *answer_faults(conversation),
    ]
    return [one.finding for one in sorted(found, key=lambda one: one.number)]


def lint_sample(whole: TokenizedSample, fitted: Fitted, capacity: int, policy: str) -> list[Finding]:
    """What training loses of a sample: `fitted` is what data.too_long=`policy` makes of it at `capacity` tokens."""
    if not whole.targets:
        told = "no token is a target, so training leaves it out; let an answer of the assistant's be trained"
        return [finding("warning", "no-targets", told)]
    if len(whole) <= capacity:
        return []
    done = f"makes {counted(len(fitted.samples), 'sample')} of it" if fitted.samples else "leaves it out"
    told = (
        f"{len(whole)} tokens, data.sequence_length is {capacity}; data.too_long={policy} {done} and loses "
        f"{fitted.counts.targets_lost} of {counted(whole.targets, 'target')}"
    )
    return [finding("warning", "too-long", told)]


def content_key(conversation: Conversation) -> bytes:
    """The same for conversations of the same messages and tools, whatever their ids."""
    messages = [(m.role, m.content, m.trained, m.calls, m.name) for m in conversation.messages]
    return blake2b(repr((messages, conversation.tools)).encode(), digest_size=16).digest()
