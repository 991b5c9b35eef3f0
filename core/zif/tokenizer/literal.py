"""Text that spells a control token, kept text (``--special-tokens-in-text text``).

A copy of the tokenizer knows its special tokens by secret names alone, so whatever a client writes is text to it. What
a chat template writes is not the client's: the client's strings are hidden while the template runs, its special tokens
get their secret names, and the strings come back. So the template's tokens are tokens, and the client's are text, even
where two strings of the client's join to one.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from zif.contract.errors import InvalidRequest
from zif.tokenizer.habits import ROLES

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend


class Literal:
    """The copy of ``backend``, and what its ids are in the original."""

    def __init__(self, backend: Backend) -> None:
        described = json.loads(backend.to_str())
        secret = secrets.token_hex(8)
        self._names: dict[str, str] = {}
        original: dict[str, int] = {}
        for number, token in enumerate(described["added_tokens"]):
            if token["special"]:
                name = self._names[token["content"]] = f"\ue000{secret}{number:x}\ue001"
                token["content"] = name
            original[token["content"]] = token["id"]
        self.backend: Backend = type(backend).from_str(json.dumps(described))
        self.backend.no_truncation()
        self.backend.no_padding()
        self._ids = {self.backend.token_to_id(content): token_id for content, token_id in original.items()}
        self._special = {original[name]: text for text, name in self._names.items()}
        self._spelled = re.compile("|".join(map(re.escape, sorted(self._names, key=len, reverse=True))) or "(?!)")
        self._beginnings = {text[:length] for text in self._names for length in range(1, len(text))}
        inner, whole = (backend.encode("a", add_special_tokens=add).ids for add in (False, True))
        starts = [i for i in range(len(whole)) if whole[i : i + len(inner)] == inner]
        self.before = whole[: starts[0]] if starts else []
        self.after = whole[starts[0] + len(inner) :] if starts else []
        """Ids that the tokenizer puts around a text by itself."""

    def ids(self, ids: list[int]) -> list[int]:
        """Return what ``ids`` of the copy are in the original.

        Raises :class:`InvalidRequest` where the vocabulary has no other way to write a control token's text.
        """
        for token_id in ids:
            if token_id not in self._ids and token_id in self._special:
                raise InvalidRequest(
                    f"the text spells {self._special[token_id]!r}, and this tokenizer cannot write that as text",
                    "prompt",
                )
        return [self._ids.get(token_id, token_id) for token_id in ids]

    def hidden(self) -> Hidden:
        """Return a place to hide a request's strings in."""
        return Hidden(self._spelled, self._beginnings, self._names)


class Hidden:
    """The strings of one request that could become control tokens in what a template makes of them."""

    def __init__(self, spelled: re.Pattern[str], beginnings: set[str], names: Mapping[str, str]) -> None:
        self._spelled = spelled
        self._beginnings = beginnings
        self._names = names
        self._mark = secrets.token_hex(8)
        self._texts: list[str] = []

    def hide(self, value: Any) -> Any:
        """Return ``value`` with a stand-in for each control token in it, and for a string's end that begins one."""
        if isinstance(value, str):
            return self._hide_text(value)
        if isinstance(value, Mapping):
            return {self.hide(key): self.hide(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.hide(item) for item in value]
        return value

    def _hide_text(self, text: str) -> str:
        pieces: list[str] = []
        at = 0
        for match in self._spelled.finditer(text):
            pieces += text[at : match.start()], self._put(match[0])
            at = match.end()
        end = text[at:]
        longest = min(max(map(len, self._beginnings), default=0), len(end))
        for length in range(longest, 0, -1):
            if end[-length:] in self._beginnings:
                return "".join([*pieces, end[:-length], self._put(end[-length:])])
        return "".join([*pieces, end])

    def hide_messages(self, messages: Any) -> Any:
        """As :meth:`hide`; a role that a template could make a control token of is refused."""
        for message in messages:
            if message.get("role") not in (*ROLES, "function"):
                raise InvalidRequest(
                    f"role {message.get('role')!r} is not served with --special-tokens-in-text text", "messages"
                )
        return self.hide(messages)

    def reveal(self, text: str) -> str:
        """Return what a template wrote, with its own control tokens by their secret names, and the client's as text."""
        text = self._spelled.sub(lambda match: self._names[match[0]], text)
        return re.sub(f"zif{self._mark}x([0-9]+)z", lambda match: self._texts[int(match[1])], text)

    def _put(self, text: str) -> str:
        self._texts.append(text)
        return f"zif{self._mark}x{len(self._texts) - 1}z"
