"""Parts of OpenAI's answers that chat and completions share."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from typing import Any

import zif
from zif.frontend import Completion, Delta, ScoredToken
from zif.server.stream import finite

FINGERPRINT = f"zif-{zif.__version__}"


def new_id(prefix: str) -> str:
    """Return an id that no other answer has."""
    return f"{prefix}-{secrets.token_hex(16)}"


def usage(prompt_tokens: int, completion_tokens: int, cached_tokens: int) -> dict[str, Any]:
    """Return OpenAI's usage object."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": cached_tokens},
    }


def usage_of(completions: Iterable[Completion]) -> dict[str, Any]:
    """Return the usage of finished completions; a prompt counts once, however many choices it has."""
    completions = list(completions)
    return usage(
        sum(len(completion.prompt_ids) for completion in completions),
        sum(completion.completion_tokens for completion in completions),
        sum(completion.cached_tokens for completion in completions),
    )


class RunningUsage:
    """The usage of a stream so far."""

    def __init__(self, prompts: Sequence[Sequence[int]]) -> None:
        self._prompt_tokens = sum(map(len, prompts))
        self._completion_tokens = 0
        self._cached = [0] * len(prompts)

    def add(self, delta: Delta) -> None:
        """Count ``delta`` in."""
        self._completion_tokens += len(delta.token_ids)
        self._cached[delta.prompt_index] = max(self._cached[delta.prompt_index], delta.cached_tokens)

    def report(self) -> dict[str, Any]:
        """Return OpenAI's usage object."""
        return usage(self._prompt_tokens, self._completion_tokens, sum(self._cached))


def prompt_scores(tokens: Iterable[ScoredToken | None]) -> list[dict[str, Any] | None]:
    """Return ``prompt_logprobs`` in vLLM's shape: an object a token, by token id; the first token has none."""
    return [None if token is None else _by_id(token) for token in tokens]


def _by_id(token: ScoredToken) -> dict[str, Any]:
    ranked = [*((other, rank) for rank, other in enumerate(token.top, 1)), (token.chosen, token.rank)]
    return {
        str(score.token_id): {"logprob": finite(score.logprob), "rank": rank, "decoded_token": score.text}
        for score, rank in ranked
    }


def chat_logprobs(tokens: Iterable[ScoredToken]) -> dict[str, Any]:
    """Return the ``logprobs`` of a chat choice."""
    return {
        "content": [
            {
                "token": token.chosen.text,
                "logprob": finite(token.chosen.logprob),
                "bytes": list(token.chosen.data),
                "top_logprobs": [
                    {"token": other.text, "logprob": finite(other.logprob), "bytes": list(other.data)}
                    for other in token.top
                ],
            }
            for token in tokens
        ],
        "refusal": None,
    }


def offsets(text: str, tokens: Iterable[bytes]) -> list[int]:
    """Return where in ``text``, in characters, each of the tokens that it was made of, as bytes, begins.

    A token that the text does not show (BOS, one that is hidden) begins where the next one does, and so does one
    that goes on with a character.
    """
    data, at, begun = text.encode(), 0, 0
    found: list[int] = []
    for token in tokens:
        within = at < len(data) and data[at] & 0xC0 == 0x80
        found.append(begun - within)
        # The marker of a word's start is no space where a text begins.
        piece = token if data.startswith(token, at) else token.lstrip(b" ")
        if data.startswith(piece, at):
            at += len(piece)
            begun += sum(byte & 0xC0 != 0x80 for byte in piece)
    return found


class CompletionLogprobs:
    """The ``logprobs`` of a completion choice: four lists, an entry a token."""

    def __init__(self) -> None:
        self.tokens: list[str] = []
        self.token_logprobs: list[float | None] = []
        self.top_logprobs: list[dict[str, float] | None] = []
        self.text_offset: list[int] = []

    def add(self, tokens: Iterable[ScoredToken], offset: int = 0) -> None:
        """Append tokens of a text that begins at ``offset``."""
        for token in tokens:
            self.tokens.append(token.chosen.text)
            self.token_logprobs.append(finite(token.chosen.logprob))
            # Two ids can have one spelling; the likelier one is kept. The chosen token is always in, as with OpenAI.
            top: dict[str, float] = {}
            for other in (*token.top, token.chosen):
                top.setdefault(other.text, finite(other.logprob))
            self.top_logprobs.append(top)
            self.text_offset.append(offset + token.text_offset)

    def add_first(self, text: str) -> None:
        """Append a prompt's first token, which nothing precedes and so has no probability."""
        self.tokens.append(text)
        self.token_logprobs.append(None)
        self.top_logprobs.append(None)
        self.text_offset.append(0)

    def report(self) -> dict[str, Any]:
        """Return OpenAI's object."""
        return {
            "tokens": self.tokens,
            "token_logprobs": self.token_logprobs,
            "top_logprobs": self.top_logprobs,
            "text_offset": self.text_offset,
        }
