"""When a sequence ends: by its tokens, by their number, by the length of its context. Decided here and nowhere else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from zif.contract.errors import ContextLengthExceeded
from zif.sampling.params import SamplingParams

EndReason = Literal["stop", "length"]


def granted(
    params: SamplingParams, prompt_length: int, limit: int, *, what: str = "this model's maximum context length"
) -> SamplingParams:
    """Return ``params`` with ``max_tokens`` and ``min_tokens`` cut to what ``limit`` leaves after the prompt.

    ``max_tokens`` None becomes all of it; 0 stays: the prompt alone is computed, and may fill ``limit``.
    Raises :class:`ContextLengthExceeded`, which calls ``limit`` by ``what`` it is.
    """
    room = limit - prompt_length
    least = 0 if params.max_tokens == 0 else 1
    if room < least:
        rest = f": at most {limit - 1} leave room for an answer" if least else ""
        raise ContextLengthExceeded(
            f"{what} is {limit} tokens, but the prompt has {prompt_length} tokens{rest}", "prompt"
        )
    most = room if params.max_tokens is None else min(params.max_tokens, room)
    if most == params.max_tokens and params.min_tokens <= most:
        return params
    return params.narrowed(max_tokens=most, min_tokens=min(params.min_tokens, most))


@dataclass(frozen=True, slots=True)
class StopRule:
    """The end of one sequence, as far as its token ids tell.

    ``ends`` are the ids that end it once ``min_tokens`` others came before (the sampler masks them until then, too);
    of these, ``named`` are reported as the reason, and the others, end-of-sequence tokens, are not. It has at
    most ``max_tokens`` tokens.
    """

    ends: frozenset[int]
    named: frozenset[int]
    min_tokens: int
    max_tokens: int

    @classmethod
    def of(cls, params: SamplingParams, eos_token_ids: Sequence[int]) -> StopRule:
        """Return the rule of a request; ``params.max_tokens`` has been :func:`granted`."""
        assert params.max_tokens is not None, "max_tokens is granted before a request reaches the engine"
        named = frozenset(params.stop_token_ids)
        ends = named if params.ignore_eos else named.union(eos_token_ids)
        return cls(ends, named, params.min_tokens, params.max_tokens)

    def cut(self, made: int, tokens: Sequence[int]) -> tuple[int, EndReason | None, int | None]:
        """Return how many of ``tokens``, which follow ``made`` others, are kept, and what ends the sequence with them.

        That is (count, finish reason, stop token id); the reasons are None while it goes on, and the id is
        None for an end-of-sequence token. One token need not be asked about unless it is among ``ends``, or number
        ``max_tokens``.
        """
        room = self.max_tokens - made
        for index, token in enumerate(tokens[:room]):
            if token in self.ends and made + index >= self.min_tokens:
                return index + 1, "stop", token if token in self.named else None
        return (room, "length", None) if room <= len(tokens) else (len(tokens), None, None)
