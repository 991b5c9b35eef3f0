"""How a chat template reads messages, found by showing it a few.

Templates differ in what they take: content as a string, as a list of parts or both; ``null`` or an empty
string where an assistant only calls a tool; a call's arguments as an object or as JSON text. Nothing in a
checkpoint says which, and a template that is given the other form often prints ``None``, a Python
``repr``, or nothing. llama.cpp's minja finds out in the same way.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zif.tokenizer.jinja_program import Exceeded

Render = Callable[[Sequence[Mapping[str, Any]]], str]
"""Writes messages out; raises where the template does."""

ROLES = ("user", "system", "developer", "assistant", "tool")
_WORDS = ("zif-probe-1", "zif-probe-2")
_CALL_ID = "zifprobe0"  # Mistral's templates want nine letters or digits
_NAME, _KEY, _VALUE = "zif_function", "zif_key", "zif_value"
_ARGUMENTS = {_KEY: _VALUE}
_ARGUMENTS_TEXT = json.dumps(_ARGUMENTS)
# What a value leaves in the text when it is not read, but printed whole.
_TRACES = ("'text'", '"text"', f"'{_KEY}'", "None")


@dataclass(frozen=True)
class Habits:
    """The forms that a template reads.

    ``strings`` and ``parts`` are the roles whose content it shows when that is a string, or a list of parts.
    ``null_calls``: the content of an assistant that only calls tools must be ``null``.
    ``object_arguments``: a call's arguments are read as an object, else as JSON text.
    ``text_arguments``: text can stand there without an error, even if an object is read.
    """

    strings: frozenset[str] = frozenset(ROLES)
    parts: frozenset[str] = frozenset()
    null_calls: bool = False
    object_arguments: bool = True
    text_arguments: bool = True

    @classmethod
    def of(cls, render: Render) -> Habits:
        """Return the habits of the template behind ``render``."""
        return _Probe(render).habits()

    def content(self, role: str, text: str) -> Any:
        """Return ``text`` as the template reads it in a message of ``role``."""
        if role in self.parts and role not in self.strings:
            return as_parts(text)
        return text


def as_parts(*texts: str) -> list[dict[str, Any]]:
    """Return ``texts`` as a list of content parts."""
    return [{"type": "text", "text": text} for text in texts]


class _Probe:
    def __init__(self, render: Render) -> None:
        self._render = render
        self._strings: set[str] = set()
        self._parts: set[str] = set()
        self._call: tuple[Any, Any] = ("", _ARGUMENTS)
        usual = self._text([{"role": "user", "content": "hello"}])
        self._traces = tuple(trace for trace in _TRACES if trace not in usual)  # less the template's own words

    def habits(self) -> Habits:
        for role in ("user", "system", "developer", "assistant"):
            self._try_content(role)
        calls = [
            (content, arguments)
            for content in (self._say("assistant", ""), None)
            for arguments in (_ARGUMENTS, _ARGUMENTS_TEXT)
        ]
        shown = [call for call in calls if self._shows_call(*call)]
        self._call = content, arguments = (shown or calls)[0]
        self._try_content("tool")
        return Habits(
            strings=frozenset(self._strings),
            parts=frozenset(self._parts),
            null_calls=content is None,
            object_arguments=arguments is _ARGUMENTS,
            text_arguments=(content, _ARGUMENTS_TEXT) in shown,
        )

    def _try_content(self, role: str) -> None:
        if self._shows(self._conversation(role, _WORDS[0]), _WORDS[:1]):
            self._strings.add(role)
        if self._shows(self._conversation(role, as_parts(*_WORDS)), _WORDS):
            self._parts.add(role)

    def _shows_call(self, content: Any, arguments: Any) -> bool:
        call = [self._asks(), _calls(content, arguments)]
        wanted = (_NAME, _KEY, _VALUE)
        endings: tuple[list[dict[str, Any]], ...] = ([_answers("sunny")], [_answers(as_parts("sunny"))], [])
        return any(self._shows([*call, *ending], wanted) for ending in endings)

    def _conversation(self, role: str, content: Any) -> list[dict[str, Any]]:
        """A conversation in which ``role`` says ``content``, and the others speak in the forms found so far."""
        message = {"role": role, "content": content}
        match role:
            case "user":
                return [message]
            case "assistant":
                return [self._asks(), message, self._asks()]
            case "tool":
                return [self._asks(), _calls(*self._call), _answers(content)]
        return [message, self._asks()]

    def _asks(self) -> dict[str, Any]:
        return {"role": "user", "content": self._say("user", "hello")}

    def _say(self, role: str, text: str) -> Any:
        return Habits(frozenset(self._strings), frozenset(self._parts)).content(role, text)

    def _shows(self, messages: Sequence[Mapping[str, Any]], wanted: Sequence[str]) -> bool:
        text = self._text(messages)
        return all(words in text for words in wanted) and not any(trace in text for trace in self._traces)

    def _text(self, messages: Sequence[Mapping[str, Any]]) -> str:
        try:
            return self._render(messages)
        except Exceeded:
            raise
        except Exception:  # a template may fail in any way on a form that it does not take
            return ""


def _calls(content: Any, arguments: Any) -> dict[str, Any]:
    call = {"id": _CALL_ID, "type": "function", "function": {"name": _NAME, "arguments": arguments}}
    return {"role": "assistant", "content": content, "tool_calls": [call]}


def _answers(content: Any) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": _CALL_ID, "name": _NAME, "content": content}
