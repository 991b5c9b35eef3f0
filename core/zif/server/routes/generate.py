"""``POST /generate``: SGLang's native endpoint.

Its streams carry the text so far at each event, or with ``--incremental-streaming-output`` what is new.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any

from fastapi import Response

from zif.frontend import Delta
from zif.server.body import JsonRouter
from zif.server.routes.native import Allowance, NativePrompt, NativeResult
from zif.server.routes.shapes import new_id
from zif.server.schemas.generate import GenerateRequest
from zif.server.service import Service
from zif.server.stream import DONE, EventStream, event, json_response


def generate_router(service: Service) -> JsonRouter:
    """Return the native endpoint of ``service``."""
    router = JsonRouter(tags=["SGLang"])

    @router.generates("/generate")
    async def generate(request: GenerateRequest) -> Response:
        """Continue texts or token ids."""
        rid = request.rid or new_id("gen")
        params = request.params(service.sampling_defaults)
        service.check_choices(len(params), params)
        answers = _Answers(service, request, rid, alone=not request.batched and params[0].n == 1)
        prompts = await service.frontend.encode_all(request.prompts())
        deltas = service.generate(prompts, params, request_id=rid, cache_salt=request.cache_salt)
        if request.stream:
            return EventStream(answers.events(prompts, deltas))
        return json_response(await answers.collect(prompts, deltas))

    return router


class _Answers:
    """The results of one request. ``alone``: there is one choice, and the answer is no list."""

    def __init__(self, service: Service, request: GenerateRequest, rid: str, *, alone: bool) -> None:
        self._service = service
        self._request = request
        self._rid = rid
        self._alone = alone
        self._started = time.perf_counter()
        self._results: dict[int, NativeResult] = {}

    async def collect(
        self, prompts: Sequence[Sequence[int]], deltas: AsyncGenerator[Delta, None]
    ) -> dict[str, Any] | list[dict[str, Any]]:
        """Return what there is at the end of ``deltas``."""
        async with aclosing(deltas), aclosing(self._grow(prompts, deltas)) as growing:
            async for _ in growing:
                pass
        wholes = [self._results[index].whole() for index in sorted(self._results)]
        return wholes[0] if self._alone else wholes

    async def events(
        self, prompts: Sequence[Sequence[int]], deltas: AsyncGenerator[Delta, None]
    ) -> AsyncGenerator[bytes, None]:
        """Yield server-sent events as ``deltas`` come."""
        incremental = self._service.options.incremental_streaming_output
        allowances: dict[int, Allowance] = {}
        async with aclosing(deltas), aclosing(self._grow(prompts, deltas)) as growing:
            async for index, result, tokens in growing:
                allowance = allowances.setdefault(index, Allowance())
                if not (incremental or allowance.earn(tokens) or result.finished):
                    continue
                payload = result.news() if incremental else result.whole()
                data = event(payload if self._alone else {**payload, "index": index})
                allowance.spend(len(data))
                yield data
        yield DONE

    async def _grow(
        self, prompts: Sequence[Sequence[int]], deltas: AsyncGenerator[Delta, None]
    ) -> AsyncGenerator[tuple[int, NativeResult, int], None]:
        """Add each delta to its result; yield the choice's index, its result, and how many tokens were added."""
        shared = [NativePrompt(prompt_ids, self._request) for prompt_ids in prompts]
        async for news in deltas:
            prompt = shared[news.prompt_index]
            if news.prompt_logprobs is None:
                prompt.add(news)
            else:  # as long as the prompt
                await self._service.frontend.texts.work(partial(prompt.add, news))
            result = self._results.get(news.index)
            if result is None:
                name = self._rid if self._alone else f"{self._rid}-{news.index}"
                result = NativeResult(name, prompt, self._request, self._started)
                self._results[news.index] = result
            result.add(news)
            yield news.index, result, len(news.token_ids)
