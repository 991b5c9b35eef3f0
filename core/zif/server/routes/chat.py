"""``POST /v1/chat/completions``."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi import Response

from zif.frontend.output import Delta, collect
from zif.server.body import JsonRouter
from zif.server.routes.shapes import FINGERPRINT, RunningUsage, chat_logprobs, new_id, prompt_scores, usage_of
from zif.server.schemas.chat import ChatRequest
from zif.server.service import Service
from zif.server.stream import DONE, EventStream, event, json_response


def chat_router(service: Service) -> JsonRouter:
    """Return the chat endpoint of ``service``."""
    router = JsonRouter(tags=["OpenAI"])

    @router.generates("/v1/chat/completions")
    async def chat(request: ChatRequest) -> Response:
        """Continue a conversation."""
        return await answer_chat(service, request)

    return router


async def answer_chat(service: Service, request: ChatRequest) -> Response:
    """Return the answer to one request."""
    answer: dict[str, Any] = {
        "id": new_id("chatcmpl"),
        "object": "chat.completion.chunk" if request.stream else "chat.completion",
        "created": int(time.time()),
        "model": service.model_name(request.model),
        "system_fingerprint": FINGERPRINT,
    }
    params = request.params(service.sampling_defaults)
    service.check_choices(1, params)
    prompt = await service.frontend.encode_chat(request.messages, **request.template_arguments())
    deltas = service.generate([prompt], params, request_id=answer["id"], cache_salt=request.cache_salt)
    if request.stream:
        return EventStream(_chunks(deltas, answer, request, prompt))
    completion = (await collect([prompt], deltas))[0]
    answer["choices"] = [
        {
            "index": choice.index,
            "message": {"role": "assistant", "content": choice.text, "refusal": None},
            "logprobs": None if choice.logprobs is None else chat_logprobs(choice.logprobs),
            "finish_reason": choice.finish_reason,
            "stop_reason": choice.stop_reason,
        }
        for choice in completion.choices
    ]
    answer["usage"] = usage_of([completion])
    if request.return_token_ids:
        answer["prompt_token_ids"] = prompt
        for shown, choice in zip(answer["choices"], completion.choices, strict=True):
            shown["token_ids"] = choice.token_ids
    if request.given("prompt_logprobs") is not None:
        answer["prompt_logprobs"] = prompt_scores(completion.prompt_logprobs or ())
    return json_response(answer)


async def _chunks(
    deltas: AsyncGenerator[Delta, None], head: dict[str, Any], request: ChatRequest, prompt: list[int]
) -> AsyncGenerator[bytes, None]:
    usage = RunningUsage([prompt])
    begun: set[int] = set()

    def chunk(index: int, delta: dict[str, Any], head: dict[str, Any] = head, **rest: Any) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None, **rest}
        payload = {**head, "choices": [choice]}
        if request.continuous_usage:
            payload["usage"] = usage.report()
        return event(payload)

    async with aclosing(deltas):
        async for news in deltas:
            usage.add(news)
            out = b""
            if news.index not in begun:
                begun.add(news.index)
                first = {**head, "prompt_token_ids": prompt} if request.return_token_ids else head
                out = chunk(news.index, {"role": "assistant", "content": ""}, head=first)
            if news.finish_reason is not None:
                rest: dict[str, Any] = {"finish_reason": news.finish_reason, "stop_reason": news.stop_reason}
            elif news.text or news.logprobs or (request.return_token_ids and news.token_ids):
                rest = {}
            else:  # within a character, or within what may become a stop string
                if out:
                    yield out
                continue
            if news.logprobs:
                rest["logprobs"] = chat_logprobs(news.logprobs)
            if request.return_token_ids:
                rest["token_ids"] = news.token_ids
            yield out + chunk(news.index, {"content": news.text} if news.text or not rest else {}, **rest)
    if request.include_usage:
        yield event({**head, "choices": [], "usage": usage.report()})
    yield DONE
