"""Messages as clients send them, made what a chat template reads.

A template sees the same few forms whoever sent the messages: no key that is ``null``, content that is a
string or a list of text parts (as the template's :class:`~zif.tokenizer.habits.Habits` have it), arguments
of tool calls as objects where they can be parsed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from zif.contract.errors import InvalidRequest
from zif.tokenizer.habits import Habits

Message = Mapping[str, Any]
_REASONING = ("reasoning_content", "reasoning")


def normalise(messages: Sequence[Message], habits: Habits) -> list[dict[str, Any]]:
    """Return ``messages`` in the forms that a template with ``habits`` reads.

    Raises :class:`InvalidRequest` for content that is not text, and for tool calls that are none.
    """
    return [_normalised(message, position, habits) for position, message in enumerate(messages)]


def _normalised(message: Message, position: int, habits: Habits) -> dict[str, Any]:
    where = f"messages[{position}]"
    out = {name: value for name, value in message.items() if value is not None}
    role = out["role"] = _role(str(out.get("role", "")), habits)
    calls = out.get("tool_calls")
    if calls:
        if not isinstance(calls, list):
            raise InvalidRequest(f"{where}.tool_calls must be a list of calls", "messages")
        out["tool_calls"] = [_call(call, f"{where}.tool_calls[{i}]", habits) for i, call in enumerate(calls)]
    else:
        out.pop("tool_calls", None)
    out["content"] = _content(out.get("content"), role, where, habits)
    if calls and habits.null_calls and not out["content"]:
        out["content"] = None
    said = next((out[name] for name in _REASONING if name in out), None)
    if said is not None:  # servers and templates disagree about its name
        out.update(dict.fromkeys(_REASONING, said))
    return out


def _role(role: str, habits: Habits) -> str:
    """OpenAI's newer name of ``system`` is unknown to most templates."""
    known = habits.strings | habits.parts
    return "system" if role == "developer" and role not in known and "system" in known else role


def _content(content: Any, role: str, where: str, habits: Habits) -> Any:
    if content is None:
        return habits.content(role, "")
    if isinstance(content, str):
        return habits.content(role, content)
    if not isinstance(content, list):
        raise InvalidRequest(f"{where}.content must be text, or a list of parts", "messages")
    texts = [_text_of_part(part, where) for part in content]
    if role in habits.parts:
        return [
            {**part, "type": "text", "text": text} if isinstance(part, Mapping) else {"type": "text", "text": text}
            for part, text in zip(content, texts, strict=True)
        ]
    return habits.content(role, "\n".join(texts))


def _text_of_part(part: Any, where: str) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
    if kind in ("text", "refusal") and isinstance(part.get(kind), str):
        return str(part[kind])
    raise InvalidRequest(f"{where}: content of type {kind!r} is not supported: this model takes text", "messages")


def _call(call: Any, where: str, habits: Habits) -> dict[str, Any]:
    if not isinstance(call, Mapping) or not isinstance(call.get("function"), Mapping):
        raise InvalidRequest(f"{where} must be an object with a function", "messages")
    function = {name: value for name, value in call["function"].items() if value is not None}
    function["arguments"] = _arguments(function.get("arguments"), habits)
    return {**call, "function": function}


def _arguments(given: Any, habits: Habits) -> Any:
    """A model may have written anything: what is no JSON object is shown as the text that it is."""
    parsed = given
    if isinstance(given, str):
        try:
            parsed = json.loads(given or "{}")
        except (ValueError, RecursionError):
            parsed = given
    elif given is None:
        parsed = {}
    if isinstance(parsed, Mapping):
        return dict(parsed) if habits.object_arguments else _as_text(given or parsed)
    text = _as_text(given)
    return text if habits.text_arguments or not habits.object_arguments else {"arguments": text}


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
