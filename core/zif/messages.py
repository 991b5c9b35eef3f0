"""What crosses the line between a frontend and an engine: plain host data, picklable.

A frontend (HTTP process, :class:`zif.LLM`) sends :class:`EngineRequest` and gets a stream of
:class:`EngineOutput`. Tokens are ids on this line; text is the frontend's business.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from zif.contract.errors import InvalidRequest, NumericalFault, Overloaded, ZifError
from zif.sampling.masks import MaskProvider
from zif.sampling.params import SamplingParams

FinishReason = Literal["stop", "length", "abort", "error"]


@dataclass(slots=True, frozen=True)
class EngineRequest:
    """One sequence to continue. ``params.n`` is 1 here: the frontend fans ``n`` out.

    ``prompt_ids`` is non-empty, every id in [0, vocab), and shorter than the context.
    ``params.max_tokens`` is set: the frontend has resolved None against the context length.
    ``eos_token_ids`` end the sequence unless ``params.ignore_eos``. Only requests of equal ``cache_key`` share
    cached prefixes. ``inputs`` are arrays for further inputs that the model declares
    (:class:`zif.contract.model.InputSpec`): one a sequence, or one a prompt token. ``masks`` makes, in the
    engine's process, what says which tokens it may have.
    """

    request_id: str
    prompt_ids: list[int]
    params: SamplingParams
    eos_token_ids: tuple[int, ...] = ()
    cache_key: tuple[str, ...] = ()
    inputs: Mapping[str, Any] = field(default_factory=dict, compare=False)
    masks: Callable[[], MaskProvider] | None = None


@dataclass(slots=True, frozen=True)
class TokenLogprob:
    """Natural-log probability of one position's token, and the most likely alternatives.

    ``top`` has the requested count of (token id, logprob), most likely first; the chosen token
    is in it only if it is that likely. ``rank`` counts from 1.
    """

    token_id: int
    logprob: float
    rank: int
    top: list[tuple[int, float]] = field(default_factory=list)


@dataclass(slots=True)
class EngineOutput:
    """News of one request. ``token_ids`` are new since the last output.

    ``finish_reason`` is set on the last output of a request and on no other; ``stop_reason`` is
    the stop token id, if one ended it (an EOS leaves it None). ``prompt_logprobs`` comes once,
    with the first token: one entry a prompt token, the first one None. ``error`` says why a request
    ended with "error", ``overloaded`` that it may succeed later, ``faulty`` that the model's logits were no numbers to
    draw from. ``cached_tokens`` is on the first and
    the last output. ``number`` is on the first: what the engine calls the request by in news of many.
    """

    request_id: str
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] | None = None
    prompt_logprobs: list[TokenLogprob | None] | None = None
    finish_reason: FinishReason | None = None
    stop_reason: int | None = None
    cached_tokens: int = 0
    error: str | None = None
    overloaded: bool = False
    faulty: bool = False
    number: int = -1

    @property
    def exception(self) -> ZifError:
        """What to raise for an output whose finish reason is "error"."""
        kind = Overloaded if self.overloaded else NumericalFault if self.faulty else InvalidRequest
        return kind(self.error or "refused")
