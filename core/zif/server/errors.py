"""Every failure as OpenAI's error object, with the status that clients expect.

400  invalid_request_error   malformed or unservable request; ``context_length_exceeded``
401  invalid_request_error   ``invalid_api_key``
403  invalid_request_error   ``wrong_host``, ``wrong_origin``: a web page may not use this server
404  invalid_request_error   ``not_found``, ``model_not_found``
405  invalid_request_error   ``method_not_allowed``
408  invalid_request_error   ``request_timeout``: headers or body did not arrive
409  invalid_request_error   ``conflict``: not while requests run
413  invalid_request_error   ``request_too_large``
415  invalid_request_error   ``unsupported_media_type``: a body that is not labelled as JSON
429  rate_limit_error        ``rate_limit_exceeded``
431  invalid_request_error   ``request_headers_too_large``
500  server_error            ``numerical_fault``: NaN or infinite logits; ``internal_error``: a bug of ours
503  server_error            ``engine_dead``, ``shutting_down``, ``too_many_connections``; of probes: ``timeout``,
                             ``no_token``, ``numerical_fault``
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from zif.contract.errors import (
    ContextLengthExceeded,
    EngineDead,
    InvalidRequest,
    NumericalFault,
    Overloaded,
    ZifError,
)

logger = logging.getLogger(__name__)

_CODES = {404: "not_found", 405: "method_not_allowed", 413: "request_too_large"}


class ApiError(Exception):
    """A failure that is about HTTP, and no matter of engine or frontend."""

    def __init__(self, status: int, message: str, *, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param


def describe(error: Exception) -> tuple[int, dict[str, Any]]:
    """Return the HTTP status of ``error``, and the body ``{"error": {message, type, param, code}}``."""
    match error:
        case ContextLengthExceeded():
            return _body(400, str(error), "context_length_exceeded", error.param)
        case InvalidRequest():
            return _body(400, str(error), "invalid_value", error.param)
        case ApiError():
            return _body(error.status, str(error), error.code, error.param)
        case RequestValidationError():
            message, param = _explain(error.errors())
            return _body(400, message, "invalid_value", param)
        case Overloaded():
            return _body(429, str(error), "rate_limit_exceeded")
        case NumericalFault():
            return _body(500, str(error), "numerical_fault")
        case EngineDead():
            return _body(503, str(error), "engine_dead")
        case ZifError():
            return _body(500, str(error), "internal_error")
        case HTTPException():
            return _body(error.status_code, str(error.detail), _CODES.get(error.status_code))
    return _body(500, "internal error; the server's log has the details", "internal_error")


def _body(status: int, message: str, code: str | None, param: str | None = None) -> tuple[int, dict[str, Any]]:
    kind = "server_error" if status >= 500 else "rate_limit_error" if status == 429 else "invalid_request_error"
    return status, {"error": {"message": message, "type": kind, "param": param, "code": code}}


def _explain(errors: Sequence[Any]) -> tuple[str, str | None]:
    """Return one sentence for pydantic's findings, and the parameter it is about."""
    first = errors[0]
    if first["type"] == "json_invalid":
        return f"the body is not valid JSON: {first.get('ctx', {}).get('error', 'cannot be read')}", None
    path = [str(part) for part in first["loc"] if part != "body"]
    message = str(first["msg"]).removeprefix("Value error, ")
    field = (first.get("ctx") or {}).get("field")
    if field is not None:
        return message, str(field)
    if not path:
        if first["type"] == "missing":
            return "the request needs a JSON object as its body", None
        return message, None
    sentence = f"{'.'.join(path)}: {message[:1].lower()}{message[1:]}"
    more = len(errors) - 1
    return sentence + (f" (and {more} more problem{'s' if more > 1 else ''})" if more else ""), path[0]


def error_response(error: Exception) -> Response:
    """Return the response that tells a client about ``error``."""
    status, body = describe(error)
    headers = {}
    if status == 429:
        headers["retry-after"] = "1"
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    if isinstance(error, HTTPException) and error.headers:
        headers.update(error.headers)
    return Response(orjson.dumps(body), status, headers, "application/json")


def install_error_handlers(app: FastAPI) -> None:
    """Make ``app`` answer every exception with OpenAI's error object."""

    async def handle(request: Request, error: Exception) -> Response:
        if describe(error)[0] == 500:
            logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return error_response(error)

    for kind in (ZifError, ApiError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, handle)
