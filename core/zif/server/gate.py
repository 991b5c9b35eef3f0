"""What every HTTP request passes before a route sees it: ASGI middleware.

Key check, admission, the body's size and arrival, and the watch over the client: if it hangs up, the
handler is cancelled wherever it stands, and its clean-up aborts what it started.
"""

from __future__ import annotations

import asyncio
import hmac
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from zif.server.errors import ApiError, error_response
from zif.server.service import Service

# Needs no key: probes and scrapers have none.
_OPEN = frozenset({"/health", "/metrics"})

# Holds a place among the concurrent requests; refused while the server drains.
_GENERATING = frozenset({"/v1/chat/completions", "/v1/completions", "/generate"})


class Gate:
    """The ASGI middleware in front of the routes of ``service``."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service
        self._options = service.options
        key = service.options.api_key
        self._authorization = None if key is None else f"Bearer {key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 0
        answered = False

        async def watched_send(message: Message) -> None:
            nonlocal status, answered
            if message["type"] == "http.response.start":
                status = message["status"]
            elif not message.get("more_body", False):
                answered = True
            await send(message)

        generating = scope["path"] in _GENERATING
        try:
            self._admit(scope, generating)
            body = await self._body(scope, receive)
        except ApiError as error:
            await error_response(error)(scope, receive, watched_send)
            self._service.metrics.count_response(_route(scope), status)
            return
        if body is None:  # the client left while it sent
            return
        _assume_json(scope)

        handler = asyncio.current_task()
        assert handler is not None
        gone = False

        async def watch() -> None:
            nonlocal gone
            while (await receive())["type"] != "http.disconnect":
                pass
            if not answered:
                gone = True
                handler.cancel()

        watcher = asyncio.create_task(watch())
        unread = [body]

        async def replay() -> Message:
            if unread:
                return {"type": "http.request", "body": unread.pop(), "more_body": False}
            await asyncio.shield(watcher)
            return {"type": "http.disconnect"}

        self._service.in_flight += generating
        try:
            await self._app(scope, replay, watched_send)
        except asyncio.CancelledError:
            if not gone:
                raise
        finally:
            self._service.in_flight -= generating
            watcher.cancel()
            if gone:
                handler.uncancel()
            self._service.metrics.count_response(_route(scope), 499 if gone else status or 500)

    def _admit(self, scope: Scope, generating: bool) -> None:
        if self._authorization is not None and scope["path"] not in _OPEN:
            given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
            if not hmac.compare_digest(given, self._authorization):
                problem = "wrong API key" if given else "no API key"
                raise ApiError(401, f"{problem}: send `Authorization: Bearer KEY`", code="invalid_api_key")
        if generating:
            if self._service.draining:
                raise ApiError(503, "the server is shutting down", code="shutting_down")
            limit = self._options.max_concurrent_requests
            if self._service.in_flight >= limit:
                raise ApiError(429, f"{limit} requests are in progress: try again", code="rate_limit_exceeded")

    async def _body(self, scope: Scope, receive: Receive) -> bytes | None:
        limit = self._options.max_body_bytes
        too_large = ApiError(413, f"the body is larger than {limit} bytes", code="request_too_large")
        for name, value in scope["headers"]:
            if name == b"content-length" and value.isdigit() and int(value) > limit:
                raise too_large
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self._options.body_timeout):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    part: bytes = message.get("body", b"")
                    size += len(part)
                    if size > limit:
                        raise too_large
                    parts.append(part)
                    if not message.get("more_body", False):
                        return b"".join(parts)
        except TimeoutError:
            raise ApiError(
                408, f"the body did not arrive within {self._options.body_timeout:g} seconds", code="request_timeout"
            ) from None


def _assume_json(scope: Scope) -> None:
    """Take any body for JSON: many clients, curl among them, label it otherwise or not at all."""
    headers = [(name, value) for name, value in scope["headers"] if name != b"content-type"]
    scope["headers"] = [*headers, (b"content-type", b"application/json")]


def _route(scope: dict[str, Any] | Scope) -> str:
    """Return the path of the route that was matched: a metric's label must not be whatever clients ask for."""
    return str(getattr(scope.get("route"), "path", "unmatched"))
