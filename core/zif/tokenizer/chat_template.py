"""Chat templates: the Jinja programs that checkpoints ship, and the conversations they write out."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from zif.contract.errors import InvalidRequest, InvalidSettings
from zif.tokenizer.conversation import Message, normalise
from zif.tokenizer.habits import Habits, as_parts
from zif.tokenizer.jinja_program import Exceeded, JinjaProgram

_PROBE_TOOL = {
    "type": "function",
    "function": {"name": "probe", "description": "", "parameters": {"type": "object", "properties": {}}},
}


class ChatTemplate:
    """A checkpoint's way to write messages as one prompt.

    ``source`` is the template's text, ``tool_source`` another one for requests that bring tools;
    ``special_tokens`` (``bos_token``, ``eos_token``, ...) are visible to both.
    """

    def __init__(
        self, source: str, *, tool_source: str | None = None, special_tokens: Mapping[str, str] | None = None
    ) -> None:
        self.source = source
        self.tool_source = tool_source
        self.special_tokens = dict(special_tokens or {})

    @cached_property
    def _plain(self) -> _Writer:
        return _Writer(self.source, self.special_tokens, tools=None)

    @cached_property
    def _with_tools(self) -> _Writer:
        if self.tool_source is None:
            return self._plain
        return _Writer(self.tool_source, self.special_tokens, tools=[_PROBE_TOOL])

    def check(self) -> None:
        """Raise :class:`InvalidSettings` if the template cannot be compiled, or does not end."""
        _ = self._plain.habits, self._with_tools.habits

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """Return the prompt for ``messages``.

        ``continue_final_message`` leaves the last message open, for the model to go on with it;
        ``variables`` are further names for the template (``enable_thinking`` and the like);
        they replace none of the other parameters.
        Raises :class:`InvalidRequest` with the template's own words if it refuses the messages.
        """
        if not messages:
            raise InvalidRequest("messages must not be empty", "messages")
        if continue_final_message and add_generation_prompt:
            raise InvalidRequest("continue_final_message needs add_generation_prompt: false", "continue_final_message")
        writer = self._with_tools if tools else self._plain
        readable = normalise(messages, writer.habits)
        names = {
            "documents": None,
            **(variables or {}),
            **({"documents": list(documents)} if documents else {}),
            "tools": list(tools) if tools else None,
            "add_generation_prompt": add_generation_prompt,
        }
        mark = _leave_open(readable[-1]) if continue_final_message else None
        try:
            text = writer.write(readable, names)
        except Exception as error:  # a template is a program of somebody else's: it can fail in any way
            raise InvalidRequest(f"the chat template refuses these messages: {error}", "messages") from error
        return text if mark is None else _cut(text, mark)


class _Writer:
    """One template with the names that are always there, and what it was found to read.

    ``tools`` are what it is shown when its habits are looked for.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str], tools: Sequence[Mapping[str, Any]] | None):
        self._program = JinjaProgram(source)
        self._names = dict(special_tokens)
        self._tools = tools

    def write(self, messages: Sequence[Message], names: Mapping[str, Any]) -> str:
        return self._program.run({**self._names, **names, "messages": list(messages)})

    @cached_property
    def habits(self) -> Habits:
        names = {"tools": self._tools, "documents": None, "add_generation_prompt": False}
        try:
            return Habits.of(lambda messages: self.write(messages, names))
        except Exceeded as error:
            raise InvalidSettings(f"the chat template does not write one short message: {error}") from error


def _leave_open(message: dict[str, Any]) -> str:
    """Append a mark to the content of ``message``, and return it: where the template writes it, the message ends.

    The content itself may be empty, or appear elsewhere in the prompt.
    """
    if message.get("tool_calls"):
        raise InvalidRequest("continue_final_message: a message with tool_calls cannot be continued", "messages")
    mark = f"zif-end-{secrets.token_hex(8)}"
    content = message["content"]
    if isinstance(content, list):
        *before, last = content or as_parts("")
        message["content"] = [*before, {**last, "text": last["text"] + mark}]
    else:
        message["content"] = content + mark
    return mark


def _cut(text: str, mark: str) -> str:
    end = text.rfind(mark)
    if end < 0:
        raise InvalidRequest(
            "continue_final_message: the chat template does not show the last message's content", "messages"
        )
    return text[:end]
