"""What every HTTP request passes before a route sees it: ASGI middleware.

Access, admission, the body's size and arrival, and the watch over the client: if it hangs up, the
handler is cancelled wherever it stands, and its clean-up aborts what it started.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from zif.server.access import CALLER, Access, is_json
from zif.server.body import check_shape, paths_of
from zif.server.errors import ApiError, error_response
from zif.server.memory import Trimmer
from zif.server.service import Service, shutting_down
from zif.tokenizer.panic import is_panic

logger = logging.getLogger(__name__)


class Gate:
    """The ASGI middleware in front of ``routes``, those of ``service``."""

    def __init__(self, app: ASGIApp, service: Service, routes: Sequence[BaseRoute]) -> None:
        self._app = app
        self._service = service
        self._options = service.options
        self._access = Access(service.options, open_paths=paths_of("probe", routes) | paths_of("open", routes))
        # Hold a place among the concurrent requests; refused while the server drains.
        self._generating = paths_of("generating", routes)
        self._body_bytes = 0
        self._trimmer = Trimmer()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer = _Answer(send, headless=scope["method"] == "HEAD")
        if scope["method"] == "HEAD":  # answered as GET is, less the body; the server beneath still sees HEAD
            scope = {**scope, "method": "GET"}
        try:
            try:
                CALLER.set(self._access.check(scope))
                with self._place(scope), self._memory() as memory:
                    await self._serve(scope, receive, answer, memory)
            except ApiError as error:
                await error_response(error)(scope, receive, answer.send)
            except BaseException as error:
                if not is_panic(error) or answer.begun:
                    raise
                logger.exception("%s %s failed", scope["method"], scope["path"])
                await error_response(RuntimeError(str(error)))(scope, receive, answer.send)
        finally:
            if answer.status:
                self._service.metrics.count_response(_route(scope), answer.status)

    async def _serve(self, scope: Scope, receive: Receive, answer: _Answer, memory: _Memory) -> None:
        """Read the body, run the application on it, and end both if the client leaves."""
        body = await self._body(scope, receive, memory)
        if body is None:  # the client left while it sent
            return
        if body and not is_json(scope["headers"]):
            raise ApiError(
                415, "the body must be JSON: send `Content-Type: application/json`", code="unsupported_media_type"
            )
        check_shape(body)
        _assume_json(scope)

        handler = asyncio.current_task()
        assert handler is not None
        gone = False

        async def watch() -> None:
            nonlocal gone
            while (await receive())["type"] != "http.disconnect":
                pass
            if not answer.complete:
                gone = True
                handler.cancel()

        watcher = asyncio.create_task(watch())
        unread = [body]
        del body

        async def replay() -> Message:
            if unread:
                return {"type": "http.request", "body": unread.pop(), "more_body": False}
            await asyncio.shield(watcher)
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            memory.release()  # what it asked for is understood
            await answer.send(message)

        answer.status = 500  # until it says something else
        try:
            await self._app(scope, replay, send)
        except asyncio.CancelledError:
            if not gone:
                raise
        finally:
            watcher.cancel()
            if gone:
                handler.uncancel()
                answer.status = 499

    @contextmanager
    def _place(self, scope: Scope) -> Iterator[None]:
        """Hold a place among the concurrent requests, from the headers on, if this one generates."""
        service = self._service
        if scope["path"] not in self._generating:
            yield
            return
        if service.draining:
            raise shutting_down()
        limit = self._options.max_concurrent_requests
        if service.in_flight >= limit:
            raise ApiError(429, f"{limit} requests are in progress: try again", code="rate_limit_exceeded")
        service.in_flight += 1
        try:
            yield
        finally:
            service.in_flight -= 1

    @contextmanager
    def _memory(self) -> Iterator[_Memory]:
        """Count the bytes of a body among those of all bodies."""
        memory = _Memory(self)
        try:
            yield memory
        finally:
            memory.release()
            self._trimmer.note(memory.most)

    def take(self, size: int) -> None:
        """Count ``size`` more bytes of bodies. Raises 429 if that is too much at once."""
        limit = self._options.max_total_body_bytes
        if self._body_bytes + size > limit:
            raise ApiError(
                429,
                f"the bodies of all requests together are over {limit} bytes: try again",
                code="rate_limit_exceeded",
            )
        self._body_bytes += size

    def give_back(self, size: int) -> None:
        """Count ``size`` bytes less."""
        self._body_bytes -= size

    async def _body(self, scope: Scope, receive: Receive, memory: _Memory) -> bytes | None:
        limit = self._options.max_body_bytes
        too_large = ApiError(413, f"the body is larger than {limit} bytes", code="request_too_large")
        for name, value in scope["headers"]:
            if name == b"content-length" and value.isdigit() and int(value[:20]) > limit:
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
                    memory.take(len(part))
                    parts.append(part)
                    if not message.get("more_body", False):
                        return b"".join(parts)
        except TimeoutError:
            raise ApiError(
                408, f"the body did not arrive within {self._options.body_timeout:g} seconds", code="request_timeout"
            ) from None


class _Memory:
    """What one body takes of the memory for all of them."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._size = 0
        self.most = 0

    def take(self, size: int) -> None:
        self._gate.take(size)
        self._size += size
        self.most = self._size

    def release(self) -> None:
        self._gate.give_back(self._size)
        self._size = 0


class _Answer:
    """The way back to the client, and how far the answer is. ``headless``: its body is left out."""

    def __init__(self, send: Send, *, headless: bool) -> None:
        self._send = send
        self._headless = headless
        self.status = 0
        self.begun = self.complete = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.begun = True
            self.status = message["status"]
        elif not message.get("more_body", False):
            self.complete = True
        if self._headless and "body" in message:
            message = {**message, "body": b""}
        await self._send(message)


def _assume_json(scope: Scope) -> None:
    """Label the body, which may be labelled in other words, or not at all, as routes expect it."""
    headers = [(name, value) for name, value in scope["headers"] if name != b"content-type"]
    scope["headers"] = [*headers, (b"content-type", b"application/json")]


def _route(scope: dict[str, Any] | Scope) -> str:
    """Return the path of the route that was matched: a metric's label must not be whatever clients ask for."""
    return str(getattr(scope.get("route"), "path", "unmatched"))
