"""What a frontend gives back: pieces of choices as they come, or the whole of them."""

from __future__ import annotations

from collections.abc import AsyncIterable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from zif.messages import FinishReason
from zif.tokenizer.tokenizer import spell


class TokenScore(NamedTuple):
    """A token, the bytes it stands for, and its natural-log probability."""

    token_id: int
    data: bytes
    logprob: float

    @property
    def text(self) -> str:
        r"""The token as text; bytes that are no whole UTF-8 are spelled ``bytes:\xe2\x82``, as OpenAI does."""
        return spell(self.data)


@dataclass(slots=True, frozen=True)
class ScoredToken:
    """The log-probabilities of one position.

    ``top`` has the most likely tokens first; the chosen one is among them only if it is that likely.
    ``rank`` of the chosen one counts from 1. ``text_offset`` is where in its text the token begins, in
    characters.
    """

    chosen: TokenScore
    rank: int
    text_offset: int
    top: tuple[TokenScore, ...] = ()


@dataclass(slots=True)
class Delta:
    """News of one choice.

    ``index`` counts the choices of a request through all of its prompts. ``text`` may be empty: the
    tokens so far may end within a character, or with what may become a stop string. ``finish_reason``
    is set on the last delta of a choice; ``stop_reason`` is then the stop string or stop token id that
    ended it, None for an end-of-sequence token. ``prompt_logprobs`` come once, one entry a prompt token,
    the first None.
    """

    index: int
    prompt_index: int
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[ScoredToken] | None = None
    prompt_logprobs: list[ScoredToken | None] | None = None
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None
    cached_tokens: int = 0


@dataclass(slots=True)
class Choice:
    """One completion of a prompt; the fields are those of :class:`Delta`, summed up."""

    index: int
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[ScoredToken] | None = None
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None


@dataclass(slots=True)
class Completion:
    """Everything that was made of one prompt. ``cached_tokens`` of it needed no prefill."""

    prompt_ids: Sequence[int]
    choices: list[Choice]
    prompt_logprobs: list[ScoredToken | None] | None = None
    cached_tokens: int = 0

    @property
    def text(self) -> str:
        """The first choice's text."""
        return self.choices[0].text

    @property
    def completion_tokens(self) -> int:
        """Tokens made, of all choices."""
        return sum(len(choice.token_ids) for choice in self.choices)


def within(scored: list[ScoredToken], length: int) -> list[ScoredToken]:
    """Return ``scored`` with the offsets of tokens that a stop string has cut off at the text's end, ``length``."""
    return [token if token.text_offset <= length else replace(token, text_offset=length) for token in scored]


async def collect(prompts: Sequence[Sequence[int]], deltas: AsyncIterable[Delta]) -> list[Completion]:
    """Read ``deltas`` to the end; return a completion for each of ``prompts``."""
    completions = [Completion(prompt_ids, []) for prompt_ids in prompts]
    choices: dict[int, Choice] = {}
    texts: dict[int, list[str]] = {}
    async for delta in deltas:
        completion = completions[delta.prompt_index]
        choice = choices.get(delta.index)
        if choice is None:
            choice = choices[delta.index] = Choice(delta.index)
            texts[delta.index] = []
            completion.choices.append(choice)
        texts[delta.index].append(delta.text)
        choice.token_ids += delta.token_ids
        if delta.logprobs is not None:
            if choice.logprobs is None:
                choice.logprobs = []
            choice.logprobs += delta.logprobs
        if delta.prompt_logprobs is not None:
            completion.prompt_logprobs = delta.prompt_logprobs
        if delta.finish_reason is not None:
            choice.finish_reason, choice.stop_reason = delta.finish_reason, delta.stop_reason
        completion.cached_tokens = max(completion.cached_tokens, delta.cached_tokens)
    for index, choice in choices.items():
        choice.text = "".join(texts[index])
        if choice.logprobs is not None:
            choice.logprobs = within(choice.logprobs, len(choice.text))
    for completion in completions:
        completion.choices.sort(key=lambda choice: choice.index)
    return completions
