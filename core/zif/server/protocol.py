"""HTTP/1.1 as uvicorn and httptools speak it, with the limits that both lack.

Bounded here: the bytes and the number of a request's headers, the time in which they arrive, the time for which a
client may leave what is sent to it unread, and the number of connections. What breaks HTTP itself is answered with
OpenAI's error object, like everything else.
"""

from __future__ import annotations

import asyncio
import http
from typing import ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from zif.server.errors import ApiError, error_response
from zif.server.options import ServerOptions
from zif.server.service import Service


class LimitedProtocol(HttpToolsProtocol):
    """One connection. :func:`protocol_of` makes the class that knows its server.

    The parser keeps a header that never ends to itself, so the bytes of a head are counted as they come in. A head
    that arrives together with what was before it is counted from the next read on: up to one read (256 KiB) is over
    the limit, never more.
    """

    service: ClassVar[Service]

    _in_head = True  # a request's head is awaited, or has arrived in part
    _head_bytes = 0
    _turned = False  # whether a message began or ended within the data that is being parsed
    _problem: ApiError | None = None
    _head_timer: asyncio.TimerHandle | None = None
    _write_timer: asyncio.TimerHandle | None = None

    @property
    def _options(self) -> ServerOptions:
        return self.service.options

    @property
    def _answering(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is not None and not cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        limit = self._options.max_connections
        if len(self.connections) > limit:
            self._refuse(ApiError(503, f"{limit} connections are open: try again", code="too_many_connections"))
        else:
            self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._head_timer, self._write_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    # -- what comes in ---------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        self._turned = False
        super().data_received(data)
        if not self._in_head or self.transport.is_closing() or self._turned:
            return
        self._head_bytes += len(data)
        if self._head_bytes > self._options.max_head_bytes:
            self._refuse(self._too_large())
        else:
            self._expect_head()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = self._turned = True
        self._head_bytes = 0
        self._expect_head()

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        if len(self.headers) > self._options.max_headers:
            self._fail(
                ApiError(431, f"more than {self._options.max_headers} headers", code="request_headers_too_large")
            )

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._head_is_there()
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if size > self._options.max_head_bytes:
            self._fail(self._too_large())
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._in_head = self._turned = True
        self._head_bytes = 0
        self._head_is_there()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self._in_head:  # the rest of the body, which nobody reads, gets as much time as a head
            self._expect_head()

    def _too_large(self) -> ApiError:
        limit = self._options.max_head_bytes
        return ApiError(431, f"the headers are larger than {limit} bytes", code="request_headers_too_large")

    def _expect_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self._options.head_timeout, self._head_is_late)

    def _head_is_there(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self.transport.is_closing():
            return
        if not self._in_head:
            self.transport.abort()
            return
        if self._answering:  # the next request's head, sent ahead
            self._expect_head()
            return
        seconds = self._options.head_timeout
        self._refuse(ApiError(408, f"no request arrived within {seconds:g} seconds", code="request_timeout"))

    # -- refusals --------------------------------------------------------------------------------------------

    def _fail(self, problem: ApiError) -> None:
        """Called by the parser: it stops at an exception, and uvicorn then calls ``send_400_response``."""
        self._problem = problem
        raise ValueError(str(problem))

    def send_400_response(self, msg: str) -> None:
        self._refuse(self._problem or ApiError(400, "this is not valid HTTP/1.1", code="malformed_http"))

    def _refuse(self, problem: ApiError) -> None:
        if self._answering and self.cycle.response_started:  # another answer cannot be put into half a one
            self.transport.abort()
            return
        response = error_response(problem)
        phrase = http.HTTPStatus(problem.status).phrase
        lines = [f"HTTP/1.1 {problem.status} {phrase}".encode()]
        lines += [name + b": " + value for name, value in response.raw_headers]
        self.transport.write(b"\r\n".join([*lines, b"connection: close", b"", bytes(response.body)]))
        self.transport.close()
        self.service.metrics.count_response("unmatched", problem.status)
        self._watch_writing()  # closing waits until what was written is read

    # -- what goes out ---------------------------------------------------------------------------------------

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_writing()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._watch_writing()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _watch_writing(self) -> None:
        waiting = self.transport.get_write_buffer_size()
        if self._write_timer is None and waiting:
            self._write_timer = self.loop.call_later(self._options.write_timeout, self._look_at_writing, waiting)

    def _look_at_writing(self, before: int) -> None:
        """Hang up on a client that reads nothing; one that reads slowly, a mebibyte a minute, is left alone."""
        self._write_timer = None
        waiting = self.transport.get_write_buffer_size()
        if before - waiting < self._options.write_timeout * _LEAST_BYTES_PER_SECOND:
            self.transport.abort()
        else:
            self._watch_writing()


_LEAST_BYTES_PER_SECOND = 2**20 / 60


def protocol_of(service: Service) -> type[LimitedProtocol]:
    """Return the protocol of the connections to ``service``."""
    return type("ServiceProtocol", (LimitedProtocol,), {"service": service})
