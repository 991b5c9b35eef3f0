"""Models, health, information, metrics, and what an operator can order."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

from fastapi import Response

import zif
from zif.contract.errors import EngineDead, NumericalFault
from zif.frontend.output import collect
from zif.sampling.params import SamplingParams
from zif.server.body import JsonRouter
from zif.server.errors import ApiError
from zif.server.schemas.tokens import AbortRequest
from zif.server.service import Service
from zif.server.stream import json_response

_PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"

_GREETING = f"""This is zif {zif.__version__}, a server of language models. It answers programs, not browsers:

  /v1     OpenAI's API: the base URL that clients want, ending in /v1
  /docs   all paths, to try
  /health whether it is well

curl -H 'Content-Type: application/json' -d '{{"messages": [{{"role": "user", "content": "Hello"}}]}}' \\
  http://.../v1/chat/completions
"""

# A scrape must answer even while the engine is stuck in a long step.
_STATS_SECONDS = 5.0


def models_router(service: Service) -> JsonRouter:
    """Return ``/v1/models``."""
    router = JsonRouter(tags=["OpenAI"])

    def describe(name: str) -> dict[str, Any]:
        return {
            "id": name,
            "object": "model",
            "created": service.started,
            "owned_by": "zif",
            "root": service.options.model_path or service.frontend.model.names[0],
            "parent": None,
            "max_model_len": service.frontend.model.context_length,
        }

    @router.get("/v1/models")
    async def list_models() -> Response:
        """List the names that the model is served under."""
        return json_response({"object": "list", "data": [describe(name) for name in service.frontend.model.names]})

    @router.get("/v1/models/{name:path}")
    async def show_model(name: str) -> Response:
        """Describe one model."""
        return json_response(describe(service.model_name(name)))

    return router


def health_router(service: Service) -> JsonRouter:
    """Return the probes, and ``/metrics``."""
    router = JsonRouter(tags=["operation"])

    @router.open("/")
    async def root() -> Response:
        """Say what this is, to somebody who opens it in a browser."""
        return Response(_GREETING, media_type="text/plain; charset=utf-8")

    @router.probe("/health")
    async def health() -> Response:
        """200 while requests can be served, else 503 with the reason."""
        service.check()
        return json_response({"status": "ok"})

    @router.get("/health_generate")
    async def health_generate() -> Response:
        """200 if a token can be generated, by a model whose logits are sound."""
        service.check()
        limit = service.options.health_generate_timeout
        params = SamplingParams(max_tokens=1, temperature=0.0, ignore_eos=True)
        try:
            deltas = service.frontend.generate([[0]], params, counted=False)
            async with asyncio.timeout(limit), aclosing(deltas):
                (completion,) = await collect([[0]], deltas)
        except TimeoutError:
            raise ApiError(503, f"no token within {limit:g} seconds", code="timeout") from None
        except NumericalFault as error:
            raise ApiError(503, str(error), code="numerical_fault") from None
        if completion.completion_tokens != 1:
            raise ApiError(503, "the engine ended a request of one token without it", code="no_token")
        return json_response({"status": "ok"})

    @router.probe("/metrics")
    async def metrics() -> Response:
        """Metrics in Prometheus' text format."""
        stats = {**service.frontend.books.totals(), **await _stats(service)}
        alive = service.frontend.engine.failure is None
        return Response(service.metrics.render(alive=alive, stats=stats), media_type=_PROMETHEUS)

    return router


async def _stats(service: Service) -> dict[str, Any]:
    """Return the statistics; none where the engine is dead or does not answer."""
    try:
        async with asyncio.timeout(_STATS_SECONDS):
            return await service.frontend.stats()
    except (EngineDead, TimeoutError):
        return {}


def operator_router(service: Service) -> JsonRouter:
    """Return what asks about, or acts on, the whole server."""
    router = JsonRouter(tags=["operation"])
    frontend = service.frontend

    async def server_info() -> Response:
        """What runs here, and how it is doing."""
        stats = await _stats(service)
        return json_response(
            {
                "version": zif.__version__,
                "model_path": service.options.model_path,
                "served_model_names": list(frontend.model.names),
                "context_length": frontend.model.context_length,
                "vocab_size": frontend.model.vocab_size,
                "failure": frontend.engine.failure,
                "open_requests": service.in_flight,
                **frontend.books.totals(),
                **stats,
                # Where SGLang's clients look for an engine's counters, an entry a replica.
                "internal_states": [stats],
            }
        )

    async def model_info() -> Response:
        """Describe the model, in SGLang's words."""
        return json_response(
            {
                "model_path": service.options.model_path or frontend.model.names[0],
                "is_generation": True,
                "max_context_length": frontend.model.context_length,
            }
        )

    async def flush_cache() -> Response:
        """Forget every cached prefix; 409 while requests run."""
        if not await frontend.engine.flush_cache():
            raise ApiError(409, "requests are running: the cache cannot be flushed now", code="conflict")
        return json_response({"success": True})

    @router.post("/abort_request")
    async def abort_request(request: AbortRequest) -> Response:
        """End a request, or all; says how many sequences that were."""
        return json_response({"aborted": await frontend.abort(request.rid)})

    for path in ("/server_info", "/get_server_info"):
        router.add_api_route(path, server_info, methods=["GET"])
    for path in ("/model_info", "/get_model_info"):
        router.add_api_route(path, model_info, methods=["GET"])
    router.add_api_route("/flush_cache", flush_cache, methods=["POST"])
    return router
