"""``/v1/completions``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, cast

from pydantic import model_validator
from pydantic_core import PydanticCustomError

from zif.sampling.params import SamplingParams
from zif.server.schemas.common import Ids, ListOfIds, SamplingRequest, Strings, few, one_of
from zif.server.schemas.fields import Place

# OpenAI's default; lm-eval and many scripts count on a short answer where they say nothing.
DEFAULT_MAX_TOKENS = 16

Prompts = Annotated[
    str | Ids | Strings | ListOfIds,
    one_of("a string, a list of strings, a list of token ids, or a list of lists of token ids"),
    few("prompts"),
]


class CompletionRequest(SamplingRequest):
    """Body of ``/v1/completions``."""

    places: ClassVar[tuple[Place, ...]] = ("completions",)

    prompt: Prompts
    echo: bool | None = None
    logprobs: int | None = None
    best_of: int | None = None
    add_special_tokens: bool | None = None

    @model_validator(mode="after")
    def _check_completion(self) -> CompletionRequest:
        if self.best_of is not None and self.best_of != (self.given("n") or 1):
            raise PydanticCustomError(
                "unsupported", "best_of other than n is not supported: choose among n yourself", {"field": "best_of"}
            )
        return self

    def prompts(self) -> list[str | list[int]]:
        """Return the prompts, one or many."""
        prompt = self.prompt
        if isinstance(prompt, str):
            return [prompt]
        if prompt and isinstance(prompt[0], int):
            return [prompt]
        return cast("list[str | list[int]]", prompt)

    def params(self, defaults: Mapping[str, float]) -> SamplingParams:
        """Return the sampling parameters; ``echo`` with ``logprobs`` asks for those of the prompt."""
        decided: dict[str, Any] = {}
        if self.logprobs is not None:
            decided["logprobs"] = self.logprobs
            if self.echo and self.given("prompt_logprobs") is None:
                decided["prompt_logprobs"] = self.logprobs
        return self.sampling({"max_tokens": DEFAULT_MAX_TOKENS, **defaults}, **decided)
