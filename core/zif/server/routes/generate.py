"""``POST /generate``: SGLang's native endpoint. Streams carry the text so far, not what is new."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from typing import Any

from fastapi import Response

from zif.frontend import Choice, Completion, Delta, ScoredToken, TokenScore
from zif.frontend.output import collect
from zif.server.body import JsonRouter
from zif.server.routes.shapes import new_id
from zif.server.schemas.generate import GenerateRequest
from zif.server.service import Service
from zif.server.stream import DONE, EventStream, event, finite, json_response


def generate_router(service: Service) -> JsonRouter:
    """Return the native endpoint of ``service``."""
    router = JsonRouter(tags=["SGLang"])

    @router.post("/generate")
    async def generate(request: GenerateRequest) -> Response:
        """Continue texts or token ids."""
        started = time.perf_counter()
        rid = request.rid or new_id("gen")
        params = request.params(service.sampling_defaults)
        service.check_choices(len(params), params)
        prompts = await service.frontend.encode_all(request.prompts())
        deltas = service.generate(prompts, params, request_id=rid, cache_salt=request.cache_salt)
        answers = _Answers(request, rid, prompts, started, alone=not request.batched and params[0].n == 1)
        if request.stream:
            return EventStream(_chunks(deltas, answers))
        finished = await collect(prompts, deltas)
        results = [answers.result(completion, choice) for completion in finished for choice in completion.choices]
        return json_response(results[0] if answers.alone else results)

    return router


class _Answers:
    """Makes SGLang's result objects. ``alone``: there is one choice, and the answer is no list."""

    def __init__(
        self, request: GenerateRequest, rid: str, prompts: Sequence[Sequence[int]], started: float, *, alone: bool
    ) -> None:
        self.request = request
        self.alone = alone
        self.completions = [Completion(prompt_ids, []) for prompt_ids in prompts]
        self._rid = rid
        self._started = started

    def result(self, completion: Completion, choice: Choice) -> dict[str, Any]:
        """Return the result of one choice, as far as it has come."""
        meta: dict[str, Any] = {
            "id": self._rid if self.alone else f"{self._rid}-{choice.index}",
            "finish_reason": _finish_reason(choice),
            "prompt_tokens": len(completion.prompt_ids),
            "completion_tokens": len(choice.token_ids),
            "cached_tokens": completion.cached_tokens,
            "e2e_latency": time.perf_counter() - self._started,
        }
        if self.request.return_logprob:
            self._add_logprobs(meta, completion, choice)
        return {"text": choice.text, "output_ids": choice.token_ids, "meta_info": meta}

    def _add_logprobs(self, meta: dict[str, Any], completion: Completion, choice: Choice) -> None:
        with_text = bool(self.request.return_text_in_logprobs)
        top = self.request.top_logprobs_num
        tokens: list[ScoredToken | None] = list(choice.logprobs or ())
        meta["output_token_logprobs"] = [_triple(token.chosen, with_text) for token in choice.logprobs or ()]
        if top:
            meta["output_top_logprobs"] = _tops(tokens, with_text)
        if completion.prompt_logprobs is None:
            return
        start = self.request.logprob_start_len or 0
        wanted = completion.prompt_logprobs[start:]
        meta["input_token_logprobs"] = [
            [None, token_id, None] if token is None else _triple(token.chosen, with_text)
            for token, token_id in zip(wanted, completion.prompt_ids[start:], strict=True)
        ]
        if top:
            meta["input_top_logprobs"] = _tops(wanted, with_text)


def _triple(token: TokenScore, with_text: bool) -> list[Any]:
    return [finite(token.logprob), token.token_id, token.text if with_text else None]


def _tops(tokens: Iterable[ScoredToken | None], with_text: bool) -> list[Any]:
    return [None if token is None else [_triple(other, with_text) for other in token.top] for token in tokens]


def _finish_reason(choice: Choice) -> dict[str, Any] | None:
    match choice.finish_reason:
        case None:
            return None
        case "stop":
            matched = choice.stop_reason
            if matched is None and choice.token_ids:
                matched = choice.token_ids[-1]
            return {"type": "stop", "matched": matched}
        case "length":
            return {"type": "length", "length": len(choice.token_ids)}
        case reason:
            return {"type": reason}


async def _chunks(deltas: AsyncGenerator[Delta, None], answers: _Answers) -> AsyncGenerator[bytes, None]:
    choices: dict[int, Choice] = {}
    async with aclosing(deltas):
        async for news in deltas:
            completion = answers.completions[news.prompt_index]
            choice = choices.setdefault(news.index, Choice(news.index))
            choice.text += news.text
            choice.token_ids += news.token_ids
            if news.logprobs is not None:
                choice.logprobs = [*(choice.logprobs or ()), *news.logprobs]
            choice.finish_reason, choice.stop_reason = news.finish_reason, news.stop_reason
            completion.prompt_logprobs = news.prompt_logprobs or completion.prompt_logprobs
            completion.cached_tokens = max(completion.cached_tokens, news.cached_tokens)
            result = answers.result(completion, choice)
            yield event(result if answers.alone else {**result, "index": news.index})
    yield DONE
