"""``/generate``: SGLang's native endpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, cast

from pydantic import ValidationError, model_validator
from pydantic_core import PydanticCustomError

from zif.sampling.params import SamplingParams
from zif.server.schemas.common import (
    FIRST_ERROR,
    MAX_PROMPTS,
    CacheSalt,
    Ids,
    ListOfIds,
    RequestModel,
    SamplingFields,
    Strings,
    few,
    one_of,
    sampling_params,
)

DEFAULT_MAX_NEW_TOKENS = 128


class NativeSampling(SamplingFields):
    """SGLang's ``sampling_params``."""

    max_new_tokens: int | None = None
    min_new_tokens: int | None = None
    sampling_seed: int | None = None
    no_stop_trim: bool | None = None

    @property
    def max_tokens(self) -> int | None:
        """``max_new_tokens`` by its other name; null is up to the context's end."""
        return self.max_new_tokens

    def defaults(self, model: Mapping[str, Any]) -> dict[str, Any]:
        """Return what holds where this says nothing: what the ``model`` recommends, and SGLang's limit."""
        said = "max_new_tokens" in self.model_fields_set
        return {**model, "max_tokens": None if said else model.get("max_tokens", DEFAULT_MAX_NEW_TOKENS)}

    @property
    def min_tokens(self) -> int | None:
        """``min_new_tokens`` by its other name."""
        return self.min_new_tokens

    @property
    def seed(self) -> int | None:
        """``sampling_seed`` by its other name."""
        return self.sampling_seed

    @property
    def include_stop_str_in_output(self) -> bool | None:
        """``no_stop_trim`` by its other name."""
        return self.no_stop_trim


ListOfSampling = Annotated[list[NativeSampling], FIRST_ERROR]


def _native_sampling(given: Any) -> NativeSampling:
    try:
        return NativeSampling.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        path = ".".join(["sampling_params", *map(str, first["loc"])])
        raise PydanticCustomError(
            "sampling_params", "{path}: {why}", {"field": "sampling_params", "path": path, "why": first["msg"]}
        ) from None


class GenerateRequest(RequestModel):
    """Body of ``/generate``: ``text`` or ``input_ids``, one or a batch."""

    unsupported: ClassVar[Mapping[str, str]] = {
        "image_data": "prompts are text or token ids",
        "audio_data": "prompts are text or token ids",
        "video_data": "prompts are text or token ids",
        "input_embeds": "prompts are text or token ids",
        "lora_path": "adapters are not supported yet",
    }

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
        decided: dict[str, int] = {}
        if self.return_logprob:
            decided["logprobs"] = self.top_logprobs_num or 0
            if self.logprob_start_len is not None and self.logprob_start_len >= 0:
                decided["prompt_logprobs"] = self.top_logprobs_num or 0
        given = self.sampling_params or NativeSampling()
        if isinstance(given, list):
            return [sampling_params(one, one.defaults(defaults), **decided) for one in given]
        return [sampling_params(given, given.defaults(defaults), **decided)] * len(self.prompts())
