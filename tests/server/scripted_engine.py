"""An engine that computes nothing: it says what its script says, and remembers what was asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from zif.contract.errors import EngineDead, NumericalFault, Overloaded
from zif.messages import EngineOutput, EngineRequest, TokenLogprob

Script = Callable[[EngineRequest], Sequence[int]]


def echo(request: EngineRequest) -> list[int]:
    """Say the prompt again and again."""
    wanted = request.params.max_tokens or 0
    prompt = request.prompt_ids
    return (prompt * (wanted // len(prompt) + 1))[:wanted]


class ScriptedEngine:
    """An :class:`~zif.frontend.EngineClient`. ``chunk`` tokens an output, ``delay`` seconds before each.

    ``running`` holds the requests that neither ended nor were aborted: a reader that just goes away does
    not take a request out.
    """

    def __init__(self, script: Script = echo, *, chunk: int = 1, delay: float = 0.0, limit: int | None = None) -> None:
        self.script = script
        self.chunk = chunk
        self.delay = delay
        self.limit = limit
        self.submitted: list[EngineRequest] = []
        self.aborted: list[str] = []
        self.running: dict[str, asyncio.Event] = {}
        self.failure: str | None = None
        self.started = self.stopped = False
        self.fail_requests = ""
        self.tokens = 0

    async def submit(self, request: EngineRequest) -> AsyncIterator[EngineOutput]:
        if self.failure is not None:
            raise EngineDead(self.failure)
        if self.limit is not None and len(self.running) >= self.limit:
            raise Overloaded(f"{self.limit} sequences are running")
        name, params = request.request_id, request.params
        assert params.n == 1
        assert params.max_tokens is not None
        self.submitted.append(request)
        interrupt = self.running[name] = asyncio.Event()
        tokens = list(self.script(request))[: params.max_tokens]
        ends = set(params.stop_token_ids) | (set() if params.ignore_eos else set(request.eos_token_ids))
        end = next((i for i, token in enumerate(tokens) if token in ends), None)
        if end is not None:
            tokens = tokens[: end + 1]
        for start in range(0, len(tokens) or params.max_tokens == 0, self.chunk):
            if await self._interrupted(interrupt):
                if self.failure is not None:
                    raise EngineDead(self.failure)
                yield EngineOutput(name, finish_reason="abort")
                return
            part = tokens[start : start + self.chunk]
            last = start + self.chunk >= len(tokens)
            output = EngineOutput(name, part, cached_tokens=len(request.prompt_ids) // 2)
            if params.logprobs is not None and part:
                output.logprobs = [score(token, params.logprobs) for token in part]
            if params.prompt_logprobs is not None and start == 0:
                scored = [score(token, params.prompt_logprobs) for token in request.prompt_ids[1:]]
                output.prompt_logprobs = [None, *scored]
            if last:
                self.running.pop(name, None)
                output.finish_reason = "length" if end is None else "stop"
                if end is not None and tokens[end] in params.stop_token_ids:
                    output.stop_reason = tokens[end]
                if self.fail_requests:
                    raise NumericalFault(self.fail_requests)
            self.tokens += len(part)
            yield output

    async def _interrupted(self, interrupt: asyncio.Event) -> bool:
        if not self.delay:
            await asyncio.sleep(0)
            return interrupt.is_set()
        try:
            async with asyncio.timeout(self.delay):
                await interrupt.wait()
        except TimeoutError:
            return False
        return True

    async def abort(self, request_ids: Sequence[str] | None) -> None:
        for name in list(self.running) if request_ids is None else request_ids:
            interrupt = self.running.pop(name, None)
            if interrupt is not None:
                self.aborted.append(name)
                interrupt.set()

    def die(self, reason: str) -> None:
        self.failure = reason
        for interrupt in self.running.values():
            interrupt.set()
        self.running.clear()

    async def flush_cache(self) -> bool:
        return not self.running

    async def stats(self) -> dict[str, Any]:
        if self.failure is not None:
            raise EngineDead(self.failure)
        return {
            "num_running": len(self.running),
            "num_waiting": 0,
            "pages_total": 64,
            "pages_free": 60,
            "generation_tokens_total": self.tokens,
            "requests_total": len(self.submitted),
            "device": "scripted",
        }

    async def start(self) -> None:
        self.started = True

    async def shutdown(self, drain_seconds: float) -> None:
        self.stopped = True


def score(token: int, count: int) -> TokenLogprob:
    """Score ``token`` second, after its neighbour; with the least likely of all in third place."""
    ranked = [(token + 1, -0.5), (token, -1.0), (token + 2, float("-inf"))]
    return TokenLogprob(token, -1.0, 2, ranked[:count])
