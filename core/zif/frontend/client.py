"""The door through which a frontend talks to an engine, in this process or another."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, Protocol

from zif.messages import EngineOutput, EngineRequest


class EngineClient(Protocol):
    """What a frontend needs of an engine."""

    def submit(self, request: EngineRequest) -> AsyncIterator[EngineOutput]:
        """Start ``request``; yield its news, the last with a finish reason.

        Raises :class:`~zif.contract.errors.EngineDead` and, before the first output,
        :class:`~zif.contract.errors.Overloaded`, out of the iterator.
        """
        ...

    async def abort(self, request_ids: Sequence[str] | None) -> None:
        """End these requests (None: all) with finish reason ``abort``; unknown ids are ignored."""
        ...

    async def flush_cache(self) -> bool:
        """Forget every cached prefix; False, and nothing done, while requests run."""
        ...

    async def stats(self) -> dict[str, Any]:
        """Return counters and gauges.

        ``num_running``, ``num_waiting``, ``pages_total``, ``pages_free``, ``pages_cached``, ``tokens_cached``,
        ``cached_tokens_total``, ``prompt_tokens_total``, ``generation_tokens_total``, ``requests_total``,
        ``retractions_total``, ``faults_total``, ``steps_total``, ``last_step_ms``, ``uptime_s``, ``device``, ``model``,
        ``max_running_requests``, ``context_length``, ``page_size``, ``dtype``.
        """
        ...

    @property
    def failure(self) -> str | None:
        """Why the engine is dead; None while it is well."""
        ...

    async def start(self) -> None:
        """Load the model and get ready; returns when requests can be served."""
        ...

    async def shutdown(self, drain_seconds: float) -> None:
        """Let running requests end for at most ``drain_seconds``, then abort them and stop.

        Safe at any time: on an engine that failed, is still starting, or never started, and once more.
        """
        ...
