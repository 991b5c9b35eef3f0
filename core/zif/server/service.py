"""What the routes share: the frontend, and what is known about the server as a whole."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing

from zif.contract.errors import EngineDead, InvalidRequest
from zif.frontend import Delta, Frontend
from zif.sampling.params import SamplingParams
from zif.server.access import CALLER
from zif.server.errors import ApiError
from zif.server.metrics import Metrics
from zif.server.options import ServerOptions
from zif.server.places import Places


class Service:
    """One server: a frontend behind HTTP."""

    def __init__(self, frontend: Frontend, options: ServerOptions) -> None:
        self.frontend = frontend
        self.options = options
        self.metrics = Metrics()
        self.started = int(time.time())
        self.draining = False
        """No new request is taken."""
        self.stopping = False
        """What still runs is aborted: the drain is over."""
        self.in_flight = 0
        self.places = Places(frontend.max_running + options.max_queued)

    @property
    def sampling_defaults(self) -> Mapping[str, float]:
        """What a request gets that leaves a sampling parameter open."""
        return self.frontend.model.sampling_defaults

    def check(self) -> None:
        """Raise the 503 that says why no request can be served now, if none can."""
        self._check_engine()
        if self.draining:
            raise shutting_down()

    def _check_engine(self) -> None:
        failure = self.frontend.engine.failure
        if failure is not None:
            raise EngineDead(f"the engine is dead: {failure}")

    def model_name(self, asked: str | None) -> str:
        """Return the name to answer under; a 404 if ``asked`` is not one that is served."""
        names = self.frontend.model.names
        if asked is None or asked in names:
            return asked or names[0]
        raise ApiError(
            404,
            f"model {asked!r} does not exist; served here: {', '.join(names)}",
            code="model_not_found",
            param="model",
        )

    def check_choices(self, prompts: int, params: SamplingParams | Sequence[SamplingParams]) -> None:
        """Refuse a request of too many completions; cheap, so that it comes before anything is tokenized."""
        choices = _count(prompts, params)
        if choices > self.options.max_choices:
            raise InvalidRequest(
                f"{choices} completions in one request (prompts times n); at most {self.options.max_choices} are taken",
                "n",
            )
        self.places.check(CALLER.get().name, choices)

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        params: SamplingParams | Sequence[SamplingParams],
        *,
        request_id: str | None = None,
        cache_salt: str | None = None,
    ) -> AsyncGenerator[Delta, None]:
        """Return the frontend's deltas, measured.

        The prompts come from :meth:`Frontend.encode_all`; whoever has several has checked their number.
        """
        self._check_engine()
        key = self._cache_key(cache_salt)
        deltas = self.frontend.generate(prompts, params, request_id=request_id, cache_key=key, encoded=True)
        return self._placed(deltas, _count(len(prompts), params))

    async def _placed(self, deltas: AsyncGenerator[Delta, None], count: int) -> AsyncGenerator[Delta, None]:
        """Pass ``deltas`` on, measured, while ``count`` places are held for whoever asks."""
        async with aclosing(deltas):
            with self.places.taken(CALLER.get().name, count):
                async with aclosing(self.metrics.measured(deltas)) as measured:
                    async for delta in measured:
                        if self.stopping and delta.finish_reason == "abort":
                            raise shutting_down()
                        yield delta

    def _cache_key(self, salt: str | None) -> tuple[str, ...]:
        """Return what only requests that may share cached prefixes have in common."""
        key = CALLER.get().key if self.options.cache_isolation == "api-key" else None
        return () if key is None and salt is None else (key or "", salt or "")


def shutting_down() -> ApiError:
    """Return the refusal of a server that ends."""
    return ApiError(503, "the server is shutting down", code="shutting_down")


def _count(prompts: int, params: SamplingParams | Sequence[SamplingParams]) -> int:
    """Return the number of completions, prompts times ``n``."""
    return prompts * params.n if isinstance(params, SamplingParams) else sum(one.n for one in params)
