"""Chat templates: the Jinja programs that checkpoints ship, run in a sandbox.

What Hugging Face's ``apply_chat_template`` gives to a template (``raise_exception``, ``strftime_now``,
``tojson`` without HTML escapes, ``{% generation %}``, loop controls) is given here too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

from zif.contract.errors import InvalidRequest, InvalidSettings

if TYPE_CHECKING:
    from jinja2 import Template

Message = Mapping[str, Any]


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
    def _template(self) -> Template:
        return _compile(self.source)

    @cached_property
    def _tool_template(self) -> Template:
        return self._template if self.tool_source is None else _compile(self.tool_source)

    def check(self) -> None:
        """Raise :class:`InvalidSettings` if the template cannot be compiled."""
        _ = self._template, self._tool_template

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """Return the prompt for ``messages``.

        ``continue_final_message`` leaves the last message open, for the model to go on with it;
        ``variables`` are further names for the template (``enable_thinking`` and the like).
        Raises :class:`InvalidRequest` with the template's own words if it refuses the messages.
        """
        if not messages:
            raise InvalidRequest("messages must not be empty", "messages")
        if continue_final_message and add_generation_prompt:
            raise InvalidRequest("continue_final_message needs add_generation_prompt: false", "continue_final_message")
        template = self._tool_template if tools else self._template
        given = {
            **self.special_tokens,
            **(variables or {}),
            "messages": [_readable(message) for message in messages],
            "tools": list(tools) if tools else None,
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
        }
        try:
            text = template.render(given)
        except Exception as error:  # a template is a program of somebody else's: it can fail in any way
            raise InvalidRequest(f"the chat template refuses these messages: {error}", "messages") from error
        return _reopen(text, messages[-1]) if continue_final_message else text


def _reopen(text: str, last: Message) -> str:
    content = str(_readable(last).get("content") or "").strip()
    end = text.rfind(content) + len(content)
    if not content or end < len(content):
        raise InvalidRequest(
            "continue_final_message: the chat template does not show the last message's content as it is", "messages"
        )
    return text[:end]


def _readable(message: Message) -> dict[str, Any]:
    """Return the message as templates expect it: text parts joined, tool arguments as objects."""
    readable = dict(message)
    content = readable.get("content")
    if isinstance(content, list):
        readable["content"] = "\n".join(_text_of_part(part) for part in content)
    calls = readable.get("tool_calls")
    if isinstance(calls, list):
        readable["tool_calls"] = [_with_parsed_arguments(call) for call in calls]
    return readable


def _text_of_part(part: Any) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
    raise InvalidRequest(f"message content of type {kind!r} is not supported: this model takes text", "messages")


def _with_parsed_arguments(call: Any) -> Any:
    if not isinstance(call, Mapping) or not isinstance(call.get("function"), Mapping):
        raise InvalidRequest("each of tool_calls must be an object with a function", "messages")
    function = dict(call["function"])
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            function["arguments"] = json.loads(arguments or "{}")
        except (ValueError, RecursionError):
            raise InvalidRequest("tool_calls: function.arguments is not valid JSON", "messages") from None
    return {**call, "function": function}


def _compile(source: str) -> Template:
    import jinja2
    import jinja2.ext
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class GenerationBlock(jinja2.ext.Extension):
        """``{% generation %}`` marks what an assistant said, for training; here it is just its content."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationBlock, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raiser(jinja2.TemplateError)
    environment.globals["strftime_now"] = _strftime_now
    try:
        return environment.from_string(source)
    except jinja2.TemplateError as error:
        raise InvalidSettings(f"the chat template is not valid Jinja: {error}") from error


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _strftime_now(form: str) -> str:
    return datetime.now().astimezone().strftime(form)


def _raiser(kind: type[Exception]) -> Callable[[str], None]:
    def raise_exception(message: str) -> None:
        raise kind(message)

    return raise_exception
