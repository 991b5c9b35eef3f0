"""JSON and server-sent events on the wire."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import orjson
from fastapi import Response
from starlette.types import Receive, Scope, Send

from zif.server.errors import describe

logger = logging.getLogger(__name__)

DONE = b"data: [DONE]\n\n"

# Line ends to readers that split text as Python's str.splitlines does; JSON lets them stand raw inside of a string.
_LINE_ENDS = tuple((char.encode(), f"\\u{ord(char):04x}".encode()) for char in "\x85\u2028\u2029")

# Log-probability that stands for minus infinity: JSON has no such number.
LOWEST_LOGPROB = -9999.0


def event(payload: dict[str, Any]) -> bytes:
    """Return ``payload`` as one server-sent event, on one line for every reader."""
    data = orjson.dumps(payload)
    if not data.isascii():
        for raw, escaped in _LINE_ENDS:
            data = data.replace(raw, escaped)
    return b"data: " + data + b"\n\n"


def finite(logprob: float) -> float:
    """Return ``logprob`` as a number that JSON can carry."""
    return logprob if logprob > LOWEST_LOGPROB else LOWEST_LOGPROB


def json_response(payload: Any, status: int = 200) -> Response:
    """Return ``payload`` as a JSON response."""
    return Response(orjson.dumps(payload), status, media_type="application/json")


class EventStream(Response):
    """Sends events as they come.

    The response begins with the first event, so a request that fails before it gets a proper status.
    A failure after that is sent as an error event, and the stream ends without ``[DONE]``.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes, None]) -> None:
        self.status_code = 200
        self.background = None
        self.init_headers({"cache-control": "no-cache", "x-accel-buffering": "no"})
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._events) as events:
            first = await anext(events)
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await send({"type": "http.response.body", "body": first, "more_body": True})
            try:
                async for chunk in events:
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
            except Exception as error:  # too late for a status: the client is told in the stream
                status, body = describe(error)
                if status == 500:
                    logger.error("a stream failed", exc_info=error)
                await send({"type": "http.response.body", "body": event(body), "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
