"""``GET /ping`` and ``POST /invocations``: what Amazon SageMaker asks of a container, as vLLM and SGLang have it."""

from __future__ import annotations

from typing import Any

from fastapi import Response
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from zif.contract.errors import InvalidRequest
from zif.server.body import JsonRouter
from zif.server.routes.chat import answer_chat
from zif.server.routes.completions import answer_completions
from zif.server.schemas.chat import ChatRequest
from zif.server.schemas.completions import CompletionRequest
from zif.server.service import Service


def sagemaker_router(service: Service) -> JsonRouter:
    """Return SageMaker's endpoints of ``service``."""
    router = JsonRouter(tags=["SageMaker"])

    @router.probe("/ping")
    async def ping() -> Response:
        """200 while requests can be served, else 503 with the reason."""
        service.check()
        return Response()

    @router.generates("/invocations")
    async def invocations(request: dict[str, Any]) -> Response:
        """Answer a request of ``/v1/chat/completions`` (it has messages) or of ``/v1/completions`` (a prompt)."""
        try:
            if "messages" in request:
                return await answer_chat(service, ChatRequest.model_validate(request))
            if "prompt" in request:
                return await answer_completions(service, CompletionRequest.model_validate(request))
        except ValidationError as error:
            raise RequestValidationError(error.errors()) from None
        raise InvalidRequest("give either messages or prompt", "messages")

    return router
