"""``/generate``: SGLang's native endpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, cast

from pydantic import ConfigDict, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from zif.sampling.params import PARAMETERS, SamplingParams
from zif.server.schemas.common import (
    FIRST_ERROR,
    MAX_PROMPTS,
    CacheSalt,
    Ids,
    ListOfIds,
    RequestModel,
    SGLangParameters,
    Strings,
    few,
    one_of,
)
from zif.server.schemas.fields import NO_EFFECT, REFUSED, Place, refuse

DEFAULT_MAX_NEW_TOKENS = 128


class NativeSampling(SGLangParameters):
    """SGLang's ``sampling_params``."""

    model_config = ConfigDict(extra="forbid")
    api = "sglang"

    @model_validator(mode="before")
    @classmethod
    def _drop_what_says_nothing(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        refuse("sampling_params", data)
        idle = (NO_EFFECT, REFUSED)
        return {
            name: value
            for name, value in data.items()
            if not any(name in fields and "sampling_params" in fields[name].places for fields in idle)
        }

    def defaults(self, model: Mapping[str, Any]) -> dict[str, Any]:
        """Return what holds where this says nothing: what the ``model`` recommends, and SGLang's limit."""
        said = PARAMETERS["max_tokens"].names["sglang"] in self.model_fields_set
        return {**model, "max_tokens": None if said else model.get("max_tokens", DEFAULT_MAX_NEW_TOKENS)}


ListOfSampling = Annotated[list[NativeSampling], FIRST_ERROR]


def _native_sampling(given: Any) -> NativeSampling:
    try:
        return NativeSampling.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        why = first["msg"]
        if first["type"] == "extra_forbidden":
            why = f"{str(first['loc'][0])[:40]} is no sampling parameter of /generate"
        raise PydanticCustomError(
            "sampling_params", "sampling_params: {why}", {"field": "sampling_params", "why": why}
        ) from None


class GenerateRequest(RequestModel):
    """Body of ``/generate``: ``text`` or ``input_ids``, one or a batch."""

    places: ClassVar[tuple[Place, ...]] = ("generate",)

    text: Annotated[str | Strings | None, one_of("a string or a list of strings"), few("texts")] = None
    input_ids: Annotated[
        Ids | ListOfIds | None, one_of("a list of token ids, or a list of lists of token ids"), few("prompts")
    ] = None
    sampling_params: Annotated[
        NativeSampling | ListOfSampling | None,
        one_of("an object, or a list of objects, of sampling parameters"),
        few("sampling_params"),
    ] = None
    rid: str | None = None
    cache_salt: CacheSalt = None
    stream: bool | None = None
    return_logprob: bool | None = None
    logprob_start_len: int | None = None
    top_logprobs_num: int | None = None
    return_text_in_logprobs: bool | None = None

    @model_validator(mode="before")
    @classmethod
    def _explain_sampling_params(cls, data: Any) -> Any:
        # Validated on their own: inside a union, what is wrong with which parameter would be lost.
        if isinstance(data, dict):
            given = data.get("sampling_params")
            if isinstance(given, dict):
                return {**data, "sampling_params": _native_sampling(given)}
            if isinstance(given, list) and len(given) <= MAX_PROMPTS:  # else refused for its length
                return {**data, "sampling_params": [_native_sampling(one) for one in given]}
        return data

    @model_validator(mode="after")
    def _check(self) -> GenerateRequest:
        if (self.text is None) == (self.input_ids is None):
            raise PydanticCustomError("prompt", "give either text or input_ids", {"field": "text"})
        count = len(self.prompts())
        if isinstance(self.sampling_params, list) and len(self.sampling_params) != count:
            raise PydanticCustomError(
                "batch",
                "{count} prompts, but {given} sampling_params",
                {"field": "sampling_params", "count": count, "given": len(self.sampling_params)},
            )
        return self

    @property
    def batched(self) -> bool:
        """Whether the answer is a list."""
        source = self.text if self.text is not None else self.input_ids
        return isinstance(source, list) and (self.text is not None or not (source and isinstance(source[0], int)))

    def prompts(self) -> list[str | list[int]]:
        """Return the prompts, one or many."""
        if self.text is not None:
            return list(self.text) if isinstance(self.text, list) else [self.text]
        ids = self.input_ids or []
        return cast("list[str | list[int]]", ids) if self.batched else [cast("list[int]", ids)]

    def params(self, defaults: Mapping[str, float]) -> list[SamplingParams]:
        """Return the sampling parameters of each prompt."""
        decided: dict[str, Any] = {}
        if self.return_logprob:
            decided["logprobs"] = self.top_logprobs_num or 0
            if self.logprob_start_len is not None and self.logprob_start_len >= 0:
                decided["prompt_logprobs"] = self.top_logprobs_num or 0
        given = self.sampling_params or NativeSampling()
        if isinstance(given, list):
            return [one.sampling(one.defaults(defaults), **decided) for one in given]
        return [given.sampling(given.defaults(defaults), **decided)] * len(self.prompts())
