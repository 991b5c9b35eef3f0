"""Parameters and types that several endpoints share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, cast

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)
from pydantic_core import CoreSchema, PydanticCustomError

from zif.contract.errors import InvalidRequest
from zif.sampling.params import MAX_LOGIT_BIAS, SamplingParams


def one_of(sentence: str) -> WrapValidator:
    """Say ``sentence`` when no branch of a union fits, rather than what is wrong with each of them."""

    def validate(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            return handler(value)
        except ValidationError:
            raise PydanticCustomError("union", "must be {sentence}", {"sentence": sentence}) from None

    return WrapValidator(validate)


class _FirstError:
    """Marks a list that stops at its first wrong item: a megabyte has room for 200,000, and each would be described."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema: Any = handler(source)
        assert schema["type"] == "list"
        return cast("CoreSchema", {**schema, "fail_fast": True})


FIRST_ERROR = _FirstError()
Ids = Annotated[list[int], FIRST_ERROR]
ListOfIds = Annotated[list[Ids], FIRST_ERROR]
Strings = Annotated[list[str], FIRST_ERROR]
Objects = Annotated[list[dict[str, Any]], FIRST_ERROR]


def at_most(count: int) -> BeforeValidator:
    """Refuse an object of more than ``count`` entries before any of them is looked at."""

    def check(value: Any) -> Any:
        if isinstance(value, dict) and len(value) > count:
            raise PydanticCustomError(
                "too_many", "has {given} entries; at most {count} are taken", {"given": len(value), "count": count}
            )
        return value

    return BeforeValidator(check)


MAX_PROMPTS = 2048


def few(what: str) -> BeforeValidator:
    """Refuse a list of more than ``MAX_PROMPTS`` texts, lists or objects before any of them is looked at."""

    def check(value: Any) -> Any:
        if isinstance(value, list) and len(value) > MAX_PROMPTS and not isinstance(value[0], int):
            raise PydanticCustomError(
                "too_many",
                "{given} {what} in one request; at most {most} are taken",
                {"given": len(value), "what": what, "most": MAX_PROMPTS},
            )
        return value

    return BeforeValidator(check)


Stop = Annotated[str | Strings | None, one_of("a string or a list of strings")]

_CONSTRAINED = "constrained output is not supported yet"


class RequestModel(BaseModel):
    """Base of all bodies."""

    model_config = ConfigDict(strict=True, extra="ignore", protected_namespaces=())

    unsupported: ClassVar[Mapping[str, str]] = {}

    @model_validator(mode="before")
    @classmethod
    def _refuse_unsupported(cls, data: Any) -> Any:
        if isinstance(data, dict):
            for name, why in cls.unsupported.items():
                if data.get(name):
                    raise PydanticCustomError("unsupported", "{field}: {why}", {"field": name, "why": why})
        return data


class StreamOptions(RequestModel):
    """What a stream carries beside text."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


CacheSalt = Annotated[str | None, Field(min_length=1, max_length=1024)]
"""Requests share cached prefixes only with those of the same salt: who may know it may learn what others asked."""


class SamplingFields(RequestModel):
    """Sampling parameters that OpenAI's and SGLang's endpoints call alike."""

    unsupported: ClassVar[Mapping[str, str]] = {
        "guided_json": _CONSTRAINED,
        "guided_regex": _CONSTRAINED,
        "guided_choice": _CONSTRAINED,
        "guided_grammar": _CONSTRAINED,
        "structured_outputs": _CONSTRAINED,
        "regex": _CONSTRAINED,
        "ebnf": _CONSTRAINED,
        "json_schema": _CONSTRAINED,
        "use_beam_search": "beam search is not supported",
        "logits_processors": "logits processors are not supported",
    }

    n: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: Annotated[dict[str, float], at_most(MAX_LOGIT_BIAS)] | None = None
    stop: Stop = None
    stop_token_ids: Ids | None = None
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = None


class SamplingRequest(SamplingFields):
    """Sampling parameters of the OpenAI endpoints, vLLM's and SGLang's extensions among them."""

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    min_tokens: int | None = None
    seed: int | None = None
    include_stop_str_in_output: bool | None = None
    response_format: dict[str, Any] | None = None
    cache_salt: CacheSalt = None

    @model_validator(mode="after")
    def _check(self) -> SamplingRequest:
        kind = (self.response_format or {}).get("type", "text")
        if kind != "text":
            raise PydanticCustomError(
                "unsupported",
                "response_format {kind} is not supported yet: only text is",
                {"field": "response_format", "kind": repr(kind)},
            )
        if self.stream_options is not None and not self.stream:
            raise PydanticCustomError(
                "conflict", "stream_options are for requests with stream: true", {"field": "stream_options"}
            )
        return self

    @property
    def include_usage(self) -> bool:
        """Whether a stream is to end with a chunk of usage."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    @property
    def continuous_usage(self) -> bool:
        """Whether every chunk is to carry usage; without ``include_usage`` none does."""
        return self.include_usage and bool(self.stream_options and self.stream_options.continuous_usage_stats)

    def sampling(self, defaults: Mapping[str, float], **decided: Any) -> SamplingParams:
        """Return the parameters, ``decided`` ones first, then the client's, then ``defaults``."""
        return sampling_params(self, defaults, **decided)


_SAMPLING_NAMES = (
    *("n", "max_tokens", "min_tokens", "temperature", "top_p", "top_k", "min_p", "seed"),
    *("presence_penalty", "frequency_penalty", "repetition_penalty", "stop_token_ids"),
    *("ignore_eos", "include_stop_str_in_output", "skip_special_tokens"),
)


def sampling_params(request: Any, defaults: Mapping[str, float], **decided: Any) -> SamplingParams:
    """Return ``SamplingParams`` of the attributes of ``request`` that are given."""
    given: dict[str, Any] = dict(defaults)
    for name in _SAMPLING_NAMES:
        value = getattr(request, name)
        if value is not None:
            given[name] = tuple(value) if isinstance(value, list) else value
    if request.stop is not None:
        given["stop"] = (request.stop,) if isinstance(request.stop, str) else tuple(request.stop)
    if request.logit_bias:
        given["logit_bias"] = {_token_id(key): bias for key, bias in request.logit_bias.items()}
    given.update(decided)
    if request.max_tokens is None and "max_tokens" not in decided and given.get("max_tokens") is not None:
        # A client that asks for many tokens, but sets no limit, is not to fail on a limit that it did not set.
        given["max_tokens"] = max(given["max_tokens"], given.get("min_tokens", 0))
    return SamplingParams(**given)


def _token_id(key: str) -> int:
    if not (key.isascii() and key.isdigit() and len(key) < 20):
        raise InvalidRequest(f"logit_bias: {key[:40]!r} is not a token id", "logit_bias")
    return int(key)
