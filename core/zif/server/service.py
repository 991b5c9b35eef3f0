"""What the routes share: the frontend, and what is known about the server as a whole."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Mapping, Sequence

from zif.contract.errors import EngineDead, InvalidRequest
from zif.frontend import Delta, Frontend
from zif.sampling.params import SamplingParams
from zif.server.errors import ApiError
from zif.server.metrics import Metrics
from zif.server.options import ServerOptions


class Service:
    """One server: a frontend behind HTTP."""

    def __init__(self, frontend: Frontend, options: ServerOptions) -> None:
        self.frontend = frontend
        self.options = options
        self.metrics = Metrics()
        self.started = int(time.time())
        self.draining = False
        self.in_flight = 0

    @property
    def sampling_defaults(self) -> Mapping[str, float]:
        """What a request gets that leaves a sampling parameter open."""
        return self.frontend.model.sampling_defaults if self.options.sampling_defaults == "model" else {}

    @property
    def trouble(self) -> str | None:
        """Why no request can be served now; None when all is well."""
        failure = self.frontend.engine.failure
        if failure is not None:
            return f"the engine is dead: {failure}"
        return "the server is shutting down" if self.draining else None

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
        choices = prompts * params.n if isinstance(params, SamplingParams) else sum(one.n for one in params)
        if choices > self.options.max_choices:
            raise InvalidRequest(
                f"{choices} completions in one request (prompts times n); at most {self.options.max_choices} are taken",
                "n",
            )

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        params: SamplingParams | Sequence[SamplingParams],
        *,
        request_id: str | None = None,
    ) -> AsyncGenerator[Delta, None]:
        """Return the frontend's deltas, measured. Whoever has several prompts has checked their number."""
        failure = self.frontend.engine.failure
        if failure is not None:
            raise EngineDead(f"the engine is dead: {failure}")
        return self.metrics.measured(self.frontend.generate(prompts, params, request_id=request_id))
