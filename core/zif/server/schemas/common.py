"""Parameters and types that several endpoints share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeAlias, cast

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    PlainValidator,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    WrapValidator,
    create_model,
    model_validator,
)
from pydantic_core import CoreSchema, PydanticCustomError

from zif.contract.errors import InvalidRequest
from zif.sampling.params import PARAMETERS, Api, Parameter, SamplingParams
from zif.server.schemas.fields import Place, refuse


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


class RequestModel(BaseModel):
    """Base of all bodies. ``places``: whose fields are refused here that :mod:`zif.server.schemas.fields` refuses."""

    model_config = ConfigDict(strict=True, extra="ignore", protected_namespaces=())

    places: ClassVar[tuple[Place, ...]] = ()

    @model_validator(mode="before")
    @classmethod
    def _refuse(cls, data: Any) -> Any:
        if isinstance(data, dict):
            for place in cls.places:
                refuse(place, data)
        return data


class StreamOptions(RequestModel):
    """What a stream carries beside text."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


CacheSalt = Annotated[str | None, Field(min_length=1, max_length=1024)]
"""Requests share cached prefixes only with those of the same salt: who may know it may learn what others asked."""


class Parameters(RequestModel):
    """Sampling parameters, in the words of ``api``. :func:`with_parameters` gives it its fields."""

    api: ClassVar[Api]

    def given(self, name: str) -> Any:
        """Return the value of a parameter by our name for it, None where the client says nothing."""
        return getattr(self, PARAMETERS[name].names[self.api])

    def sampling(self, defaults: Mapping[str, float], **decided: Any) -> SamplingParams:
        """Return the parameters, ``decided`` ones first, then the client's, then ``defaults``."""
        known = (name for name, parameter in PARAMETERS.items() if self.api in parameter.names)
        said = {name: value for name in known if (value := self.given(name)) is not None}
        settled = {**defaults, **said, **decided}
        if "max_tokens" not in {**said, **decided} and settled.get("max_tokens") is not None:
            # A client that asks for many tokens, but sets no limit, is not to fail on a limit that it did not set.
            settled["max_tokens"] = max(settled["max_tokens"], settled.get("min_tokens", 0))
        return SamplingParams(**settled)


def with_parameters(api: Api) -> type[Parameters]:
    """Return :class:`Parameters` with a field for each parameter that ``api`` takes; null is "not given"."""
    fields: dict[str, Any] = {}
    for parameter in PARAMETERS.values():
        name = parameter.names.get(api)
        if name is not None:
            kind = Annotated[Any, PlainValidator(_checked(parameter, name)), WithJsonSchema(parameter.kind.schema)]
            fields[name] = kind, Field(None, description=parameter.doc)
    return create_model(f"{api}_parameters", __base__=Parameters, **fields)


def _checked(parameter: Parameter, name: str) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        try:
            return None if value is None else parameter.check(value, name)
        except InvalidRequest as error:
            raise PydanticCustomError("parameter", "{why}", {"field": name, "why": str(error)}) from None

    return check


if TYPE_CHECKING:
    OpenAIParameters: TypeAlias = Parameters
    SGLangParameters: TypeAlias = Parameters
else:
    OpenAIParameters, SGLangParameters = with_parameters("openai"), with_parameters("sglang")


class SamplingRequest(OpenAIParameters):
    """What the OpenAI endpoints share, vLLM's and SGLang's extensions among it."""

    api = "openai"

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    cache_salt: CacheSalt = None
    return_token_ids: bool | None = None

    @model_validator(mode="after")
    def _check(self) -> SamplingRequest:
        if self.stream and self.given("prompt_logprobs") is not None:
            raise PydanticCustomError(
                "conflict", "prompt_logprobs are for requests without stream: true", {"field": "prompt_logprobs"}
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
