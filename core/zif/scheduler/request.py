"""One sequence on its way from prompt to last token."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from enum import Enum, auto
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from zif.cache.allocator import IntArray
from zif.cache.watch import Watch
from zif.messages import FinishReason
from zif.sampling.masks import MaskProvider
from zif.sampling.params import SamplingParams
from zif.sampling.stop import StopRule, granted

_NO_INPUTS: Mapping[str, Any] = MappingProxyType({})


class Tail(Protocol):
    """Where a request's newest tokens wait."""

    def pull(self, request: Request) -> None:
        """Hand them to :meth:`Request.extend_output`."""


class Status(Enum):
    """Where a request is. A retracted one waits again."""

    WAITING = auto()
    PREFILLING = auto()
    DECODING = auto()
    FINISHED = auto()


class Request:
    """State of one request, owned by the scheduler. Others read.

    ``prompt``         int32 [n], the prompt.
    ``row``            its row of the request table, 0 while it has none.
    ``tokens``         int32: what prefill computes. The prompt, or prompt and output after a retraction.
    ``cached_tokens``  prompt tokens found in the prefix cache when it was first admitted.
    ``rule``           how its tokens end it.
    ``extra_key``      sequences share cached prefixes only within one key (cache salts).
    ``order``          arrival, counted from 0.
    """

    __slots__ = (
        "_output",
        "cached_tokens",
        "drafts",
        "extra_key",
        "finish_reason",
        "id",
        "inputs",
        "masks",
        "matched",
        "order",
        "params",
        "prompt",
        "retractions",
        "row",
        "rule",
        "scored",
        "status",
        "tail",
        "ticket",
        "tokens",
        "watch",
    )

    def __init__(
        self,
        request_id: str,
        prompt_ids: Sequence[int] | npt.NDArray[np.integer[Any]],
        params: SamplingParams,
        eos_token_ids: Sequence[int] = (),
        extra_key: Hashable = None,
        inputs: Mapping[str, Any] | None = None,
        masks: MaskProvider | None = None,
    ) -> None:
        self.id = request_id
        self.prompt: IntArray = np.asarray(prompt_ids, dtype=np.int32)
        self.params = params
        self.extra_key = extra_key
        self.inputs = inputs or _NO_INPUTS
        self.masks = masks
        self.rule = StopRule.of(params, eos_token_ids)
        self._output: list[int] = []
        self.tail: Tail | None = None
        """While it runs: what has its newest tokens."""
        self.status = Status.WAITING
        self.finish_reason: FinishReason | None = None
        self.order = -1
        self.row = 0
        self.tokens = self.prompt
        self.cached_tokens = 0
        self.drafts = 0
        """Tokens that each decode of it brings to be verified, where there is room for them."""
        self.retractions = 0
        self.scored = params.prompt_logprobs is None
        """Whether the logits of all prompt positions, where asked for, have been launched."""
        self.ticket = 0
        """Which of its places in the queue holds: the last one that it was given."""
        self.matched = -1
        """Version of the prefix cache when it was given that place."""
        self.watch: Watch | None = None
        """While it waits: how the cache says that it has more of it."""

    @property
    def prompt_ids(self) -> list[int]:
        ids: list[int] = self.prompt.tolist()
        return ids

    @property
    def output_ids(self) -> list[int]:
        """Tokens sampled and committed so far; not to be changed."""
        if self.tail is not None:
            self.tail.pull(self)
        return self._output

    def extend_output(self, tokens: Sequence[int]) -> None:
        """These have been sampled and committed, too."""
        self._output += tokens

    @property
    def num_tokens(self) -> int:
        """Tokens known to the host: prompt and committed output."""
        return len(self.prompt) + len(self.output_ids)

    @property
    def final_length(self) -> int:
        """Positions computed when it ends by count: all but the last token's, whose KV nobody needs."""
        return len(self.prompt) + max(self.rule.max_tokens, 1) - 1

    @property
    def samples(self) -> bool:
        """Whether it wants any output token at all."""
        return self.rule.max_tokens > 0

    def fit(self, limit: int, what: str) -> None:
        """Ask for no more tokens than ``limit``, ``what`` by name, leaves after the prompt.

        Raises ContextLengthExceeded if it leaves none.
        """
        self.params = granted(self.params, len(self.prompt), limit, what=what)
        assert self.params.max_tokens is not None
        self.rule = replace(self.rule, min_tokens=self.params.min_tokens, max_tokens=self.params.max_tokens)

    def known_tokens(self) -> IntArray:
        """Prompt and committed output, int32 ``(num_tokens,)``."""
        return np.concatenate([self.prompt, np.asarray(self.output_ids, dtype=np.int32)])

    def matchable(self) -> IntArray:
        """What of ``tokens`` may be taken from the prefix cache: all but the last, whose logits are needed.

        Nothing, while the logits of the prompt's positions are still owed.
        """
        return self.tokens[: len(self.tokens) - 1] if self.scored else self.tokens[:0]

    def __repr__(self) -> str:
        return (
            f"Request({self.id!r}, {self.status.name}, row={self.row}, prompt={len(self.prompt)}, "
            f"output={len(self.output_ids)})"
        )
