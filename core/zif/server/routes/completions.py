"""``POST /v1/completions``."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from fastapi import Response

from zif.frontend import Completion, Delta, Frontend, ScoredToken
from zif.frontend.output import collect
from zif.server.body import JsonRouter
from zif.server.routes.shapes import (
    FINGERPRINT,
    CompletionLogprobs,
    RunningUsage,
    new_id,
    offsets,
    prompt_scores,
    usage_of,
)
from zif.server.schemas.completions import CompletionRequest
from zif.server.service import Service
from zif.server.stream import DONE, EventStream, event, json_response
from zif.tokenizer.tokenizer import spell


@dataclass(frozen=True)
class _Echo:
    """What of a prompt comes before its completions: its text, and the tokens in it, as they are spelled."""

    text: str = ""
    tokens: tuple[bytes, ...] = ()

    def score(self, scores: Sequence[ScoredToken | None]) -> CompletionLogprobs:
        """Return the log-probabilities of the prompt, with offsets in ``text``."""
        logprobs = CompletionLogprobs()
        logprobs.add_first(spell(self.tokens[0]))
        logprobs.add(token for token in scores if token is not None)
        logprobs.text_offset = offsets(self.text, self.tokens)
        return logprobs


def completions_router(service: Service) -> JsonRouter:
    """Return the completions endpoint of ``service``."""
    router = JsonRouter(tags=["OpenAI"])

    @router.generates("/v1/completions")
    async def completions(request: CompletionRequest) -> Response:
        """Continue texts, or token ids."""
        return await answer_completions(service, request)

    return router


async def answer_completions(service: Service, request: CompletionRequest) -> Response:
    """Return the answer to one request."""
    answer: dict[str, Any] = {
        "id": new_id("cmpl"),
        "object": "text_completion",
        "created": int(time.time()),
        "model": service.model_name(request.model),
        "system_fingerprint": FINGERPRINT,
    }
    params = request.params(service.sampling_defaults)
    given = request.prompts()
    service.check_choices(len(given), params)
    special = request.add_special_tokens is not False
    prompts = await service.frontend.encode_all(given, add_special_tokens=special)
    deltas = service.generate(prompts, params, request_id=answer["id"], cache_salt=request.cache_salt)
    echoes = [
        await _echo(service.frontend, text, ids, params.skip_special_tokens) if request.echo else _Echo()
        for text, ids in zip(given, prompts, strict=True)
    ]
    if request.stream:
        return EventStream(_chunks(deltas, answer, request, prompts, echoes))
    finished = await collect(prompts, deltas)
    answer["choices"] = [
        choice
        for completion, echo in zip(finished, echoes, strict=True)
        for choice in _choices(completion, echo, request)
    ]
    answer["usage"] = usage_of(finished)
    return json_response(answer)


async def _echo(frontend: Frontend, prompt: str | list[int], ids: list[int], skip_special_tokens: bool) -> _Echo:
    text = (
        prompt if isinstance(prompt, str) else await frontend.texts.decode(ids, skip_special_tokens=skip_special_tokens)
    )
    return _Echo(text, tuple(await frontend.texts.each(frontend.tokenizer.token_bytes, ids)))


def _choices(completion: Completion, echo: _Echo, request: CompletionRequest) -> list[dict[str, Any]]:
    return [
        {
            "index": choice.index,
            "text": echo.text + choice.text,
            "logprobs": _logprobs(request, echo, completion.prompt_logprobs, choice.logprobs),
            "finish_reason": choice.finish_reason,
            "stop_reason": choice.stop_reason,
            **(_ids(completion.prompt_ids, choice.token_ids) if request.return_token_ids else {}),
            **(
                {"prompt_logprobs": prompt_scores(completion.prompt_logprobs or ())}
                if request.given("prompt_logprobs") is not None
                else {}
            ),
        }
        for choice in completion.choices
    ]


def _ids(prompt: Sequence[int] | None, answer: list[int]) -> dict[str, Any]:
    """What ``return_token_ids`` asks for; a stream says the prompt's once."""
    return {"token_ids": answer} if prompt is None else {"prompt_token_ids": prompt, "token_ids": answer}


def _logprobs(
    request: CompletionRequest,
    echo: _Echo,
    prompt: Sequence[ScoredToken | None] | None,
    tokens: Sequence[ScoredToken] | None,
) -> dict[str, Any] | None:
    if request.logprobs is None:
        return None
    logprobs = echo.score(prompt) if prompt else CompletionLogprobs()
    logprobs.add(tokens or (), len(echo.text))
    return logprobs.report()


async def _chunks(
    deltas: AsyncGenerator[Delta, None],
    head: dict[str, Any],
    request: CompletionRequest,
    prompts: list[list[int]],
    echoes: list[_Echo],
) -> AsyncGenerator[bytes, None]:
    usage = RunningUsage(prompts)
    begun: set[int] = set()
    async with aclosing(deltas):
        async for news in deltas:
            usage.add(news)
            echo = echoes[news.prompt_index]
            text, prompt = news.text, None
            if news.index not in begun:
                begun.add(news.index)
                text, prompt = echo.text + text, prompts[news.prompt_index]
            ids = _ids(prompt, news.token_ids) if request.return_token_ids else {}
            if not (text or news.logprobs or news.prompt_logprobs or news.finish_reason or ids):
                continue  # within a character, or within what may become a stop string
            payload = {
                **head,
                "choices": [
                    {
                        "index": news.index,
                        "text": text,
                        "logprobs": _logprobs(request, echo, news.prompt_logprobs, news.logprobs),
                        "finish_reason": news.finish_reason,
                        "stop_reason": news.stop_reason,
                        **ids,
                    }
                ],
            }
            if request.continuous_usage:
                payload["usage"] = usage.report()
            yield event(payload)
    if request.include_usage:
        yield event({**head, "choices": [], "usage": usage.report()})
    yield DONE
