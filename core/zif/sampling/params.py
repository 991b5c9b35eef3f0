"""How a request wants its tokens drawn."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass, field

from zif.contract.errors import InvalidRequest

MAX_LOGPROBS = 20
MAX_LOGIT_BIAS = 300
MAX_STOP = 16
MAX_STOP_TOKEN_IDS = 56
MAX_N = 128
MIN_TEMPERATURE = 1e-5
RANDOM, FILTERED, ADJUSTED, SCORED = 1, 2, 4, 8


@dataclass(slots=True, frozen=True, kw_only=True)
class SamplingParams:
    """Sampling settings of one request; validated when made.

    ``temperature`` 0 is greedy, and so is one below 1e-5. ``stop`` may be a single string. ``top_k`` 0
    (or -1) keeps all. ``logprobs`` is the number of alternatives a token is reported with (0: the chosen
    token's alone; None: off); ``prompt_logprobs`` likewise for the prompt. ``max_tokens`` None means: to
    the end of the context. ``seed`` None lets the engine choose one.

    Raises :class:`InvalidRequest` (a ValueError) that names the field.
    """

    max_tokens: int | None = None
    min_tokens: int = 0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    n: int = 1
    needs: int = field(init=False, repr=False, compare=False, default=0)
    """What its sampler has to do: RANDOM, FILTERED, ADJUSTED, SCORED or-ed, as a batch's requests' are in turn."""

    def __post_init__(self) -> None:
        def settle(name: str, value: object) -> None:
            object.__setattr__(self, name, value)

        for name in ("stop", "stop_token_ids"):
            value = getattr(self, name)
            settle(name, (value,) if isinstance(value, str | int) else tuple(value))
        for name in ("top_k", "min_tokens", "n", "max_tokens", "logprobs", "prompt_logprobs", "seed"):
            settle(name, _integer(name, getattr(self, name)))
        settle("stop_token_ids", tuple(_integer("stop_token_ids", token) for token in self.stop_token_ids))
        settle("logit_bias", {_integer("logit_bias", token): bias for token, bias in self.logit_bias.items()})
        if self.top_k == -1:
            settle("top_k", 0)
        _range("temperature", self.temperature, 0.0, 100.0)
        if self.temperature < MIN_TEMPERATURE:
            settle("temperature", 0.0)
        _range("top_p", self.top_p, 0.0, 1.0, open_low=True)
        _range("min_p", self.min_p, 0.0, 1.0)
        _range("repetition_penalty", self.repetition_penalty, 0.0, 100.0, open_low=True)
        _range("presence_penalty", self.presence_penalty, -2.0, 2.0)
        _range("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
        _range("top_k", self.top_k, 0, 2**31 - 1)
        _range("min_tokens", self.min_tokens, 0, 2**31 - 1)
        _range("n", self.n, 1, MAX_N)
        if self.max_tokens is not None:
            _range("max_tokens", self.max_tokens, 0, 2**63 - 1)
            if self.min_tokens > self.max_tokens:
                raise InvalidRequest(
                    f"min_tokens ({self.min_tokens}) is over max_tokens ({self.max_tokens})", "min_tokens"
                )
        for name in ("logprobs", "prompt_logprobs"):
            if getattr(self, name) is not None:
                _range(name, getattr(self, name), 0, MAX_LOGPROBS)
        if self.seed is not None:
            _range("seed", self.seed, -(2**63), 2**64 - 1)
        if len(self.logit_bias) > MAX_LOGIT_BIAS:
            raise InvalidRequest(
                f"logit_bias has {len(self.logit_bias)} entries; at most {MAX_LOGIT_BIAS} are taken", "logit_bias"
            )
        for bias in self.logit_bias.values():
            _range("logit_bias", bias, -100.0, 100.0)
        if len(self.stop_token_ids) > MAX_STOP_TOKEN_IDS:
            raise InvalidRequest(f"stop_token_ids takes up to {MAX_STOP_TOKEN_IDS} ids", "stop_token_ids")
        if len(self.stop) > MAX_STOP or not all(_is_text(text) for text in self.stop):
            raise InvalidRequest(f"stop takes up to {MAX_STOP} non-empty strings", "stop")
        needs = 0 if self.greedy else RANDOM
        needs |= FILTERED if self.filtered else 0
        needs |= ADJUSTED if self.adjusted else 0
        needs |= SCORED if self.logprobs is not None else 0
        settle("needs", needs)

    def narrowed(self, **changes: int | None) -> SamplingParams:
        """Return a copy with fields that were valid before, and are now smaller: they are not checked again."""
        twin = object.__new__(SamplingParams)
        for name in SamplingParams.__slots__:
            object.__setattr__(twin, name, changes[name] if name in changes else getattr(self, name))
        return twin

    @property
    def greedy(self) -> bool:
        """True where the most likely token is taken, with no random bits."""
        return self.temperature == 0.0

    @property
    def adjusted(self) -> bool:
        """True where the tokens so far, ``logit_bias`` or ``min_tokens`` change the logits."""
        return bool(
            self.repetition_penalty != 1.0
            or self.presence_penalty
            or self.frequency_penalty
            or self.logit_bias
            or self.min_tokens
        )

    @property
    def filtered(self) -> bool:
        """True where top-k, top-p or min-p leave tokens out."""
        return not self.greedy and bool(self.top_k or self.top_p < 1.0 or self.min_p)


def _integer(name: str, value: object) -> int | None:
    """``value`` as an int; None stays. Takes numpy's integers, and no float or bool."""
    if value is None:
        return None
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise InvalidRequest(f"{name} must be a whole number, not {value!r}", name) from None


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value != ""


def _range(name: str, value: object, low: float, high: float, *, open_low: bool = False) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool) or math.isnan(value):
        raise InvalidRequest(f"{name} must be a number, not {value!r}", name)
    if value < low or value > high or (open_low and value == low):
        bracket = "(" if open_low else "["
        raise InvalidRequest(f"{name} must be in {bracket}{low}, {high}], not {value}", name)
