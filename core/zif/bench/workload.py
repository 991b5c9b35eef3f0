"""What a benchmark asks: how many requests, of what lengths, made of which tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from zif.contract.errors import InvalidSettings

Kind = Literal["offline", "latency", "online", "prefix"]
Lengths = tuple[int, int]
"""The shortest and the longest, both included; drawn uniformly."""

FIRST_TOKEN = 10
"""Random prompts leave out lower ids, where vocabularies keep their special tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One benchmark. Raises :class:`InvalidSettings` for figures that make no sense.

    ``shared_len`` of ``prefix``: prompt tokens that all requests have in common; the rest of
    ``input_len`` is a request's own. ``request_rate`` of ``online``: arrivals a second, as a Poisson
    process; infinite for all at once. ``base_url``: a server that runs already.
    """

    kind: Kind = "offline"
    num_prompts: int = 64
    input_len: Lengths = (512, 512)
    output_len: Lengths = (64, 64)
    shared_len: int = 480
    request_rate: float = 4.0
    base_url: str | None = None
    temperature: float = 0.0
    seed: int = 0
    warmup: bool = True

    def __post_init__(self) -> None:
        for flag, value in (("--num-prompts", self.num_prompts), ("--request-rate", self.request_rate)):
            if not value > 0:
                raise InvalidSettings(f"{flag} {value}: must be more than 0")
        for flag, (low, high) in (("--input-len", self.input_len), ("--output-len", self.output_len)):
            if not 1 <= low <= high:
                raise InvalidSettings(f"{flag} {low}:{high}: needs 1 <= shortest <= longest")
        if self.kind == "prefix" and not 0 < self.shared_len < self.input_len[0]:
            raise InvalidSettings(
                f"--shared-len {self.shared_len}: must be more than 0 and less than --input-len {self.input_len[0]}"
            )
        if self.base_url is not None and self.kind != "online":
            raise InvalidSettings(f"--base-url: only --workload online measures a server, not {self.kind}")

    def requests(self, vocab: int, turn: int) -> list[Request]:
        """The requests of one turn; each turn has tokens of its own, so that none is found in a cache."""
        rng = np.random.default_rng([self.seed, turn])
        low = min(FIRST_TOKEN, vocab - 1)

        def draw(count: int) -> list[int]:
            return rng.integers(low, vocab, count).tolist()

        shared = draw(self.shared_len) if self.kind == "prefix" else []
        made = []
        for _ in range(self.num_prompts):
            length = int(rng.integers(self.input_len[0], self.input_len[1] + 1))
            output = int(rng.integers(self.output_len[0], self.output_len[1] + 1))
            made.append(Request(shared + draw(length - len(shared)), output))
        return made

    def arrivals(self) -> list[float]:
        """Seconds from the start at which each request of ``online`` is sent."""
        if self.request_rate == float("inf"):
            return [0.0] * self.num_prompts
        gaps = np.random.default_rng([self.seed, 1 << 20]).exponential(1 / self.request_rate, self.num_prompts)
        return [float(moment) for moment in np.cumsum(gaps) - gaps[0]]


@dataclass(frozen=True, slots=True)
class Request:
    """Prompt token ids, and how many tokens to make, end of sequence or not."""

    prompt: list[int]
    output_len: int


def parse_lengths(text: str) -> Lengths:
    """``512``, or ``100:1024`` for a range. Raises ValueError."""
    low, colon, high = text.partition(":")
    return int(low), int(high) if colon else int(low)


def check_fits(requests: Sequence[Request], context: int) -> None:
    """Raise :class:`InvalidSettings` for a request that is longer than the model's context."""
    longest = max(len(request.prompt) + request.output_len for request in requests)
    if longest > context:
        raise InvalidSettings(
            f"--input-len and --output-len make {longest} tokens, the model takes {context}: ask for less"
        )
