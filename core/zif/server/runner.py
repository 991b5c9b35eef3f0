"""Runs the application in uvicorn, and brings it down gently."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import resource
import signal
import socket
import sys
from collections.abc import Callable, Collection, Iterator

import uvicorn
from fastapi import FastAPI

from zif.contract.errors import InvalidSettings
from zif.frontend import Frontend
from zif.server.app import create_app
from zif.server.memory import limit_heaps
from zif.server.options import ServerOptions
from zif.server.protocol import protocol_of
from zif.server.service import Service

logger = logging.getLogger(__name__)

# After the drain's deadline everything is aborted; the answers that this brings about still want sending.
_FAREWELL_SECONDS = 5

# Connections that wait to be accepted.
_BACKLOG = 2048

# Longer than the idle pools of common clients, so that it is they who close a connection.
_KEEP_ALIVE_SECONDS = 75

_SWITCH_SECONDS = 0.0005


def run_server(
    frontend: Frontend,
    options: ServerOptions,
    *,
    listener: socket.socket | None = None,
    ready: Callable[[str], None] | None = None,
) -> str | None:
    """Serve until SIGINT or SIGTERM; see :func:`serve`. Runs on uvloop where that is installed."""
    limit_heaps()
    # What is there now stays: no collection of garbage has to walk it, which halts every stream.
    gc.collect()
    gc.freeze()
    # The event loop waits that long for Python's lock whenever a thread works on a long prompt.
    sys.setswitchinterval(_SWITCH_SECONDS)
    _allow_descriptors(2 * options.max_connections)
    with asyncio.Runner(loop_factory=uvicorn.Config("", loop="auto", log_config=None).get_loop_factory()) as runner:
        return runner.run(serve(frontend, options, listener=listener, ready=ready))


def _allow_descriptors(wanted: int) -> None:
    """Raise the number of open files, a connection each, as far as this process may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))


async def serve(
    frontend: Frontend,
    options: ServerOptions,
    *,
    listener: socket.socket | None = None,
    ready: Callable[[str], None] | None = None,
    stop: asyncio.Event | None = None,
) -> str | None:
    """Start the engine, serve, and stop the engine; returns why the engine died, None if it did not.

    ``listener`` is what :func:`listen` gave, where it was called before; it is closed in the end. ``ready`` is
    called with the server's URL once requests are taken. On SIGINT, SIGTERM or ``stop`` new requests are refused,
    running ones have ``options.drain_seconds`` to end, then they are aborted, and streams end with an error event;
    a second signal ends everything at once. Raises :class:`InvalidSettings` if the address cannot be listened on,
    and what building the engine raised.
    """
    if listener is None:
        listener = listen(options.host, options.port)
    stopper: asyncio.Task[None] | None = None
    try:
        try:
            if not await _start_engine(frontend):
                return None
            server = _Server(create_app(frontend, options), options, listener, ready)
            if stop is not None:
                stopper = asyncio.create_task(server.stop_on(stop))
            await server.serve(sockets=[listener])
            return frontend.engine.failure
        finally:
            await frontend.engine.shutdown(0.0)
    finally:
        if stopper is not None:
            stopper.cancel()
        listener.close()


async def _start_engine(frontend: Frontend) -> bool:
    """Start the engine, which may take minutes; False if a signal ended that."""
    task = asyncio.current_task()
    assert task is not None
    interrupted = False

    def interrupt() -> None:
        nonlocal interrupted
        interrupted = True
        task.cancel()

    with _handling_signals(interrupt):
        try:
            await frontend.start()
        except asyncio.CancelledError:
            if not interrupted:
                raise
            task.uncancel()
            logger.warning("interrupted while the engine started")
            return False
    return True


@contextlib.contextmanager
def _handling_signals(handler: Callable[[], None]) -> Iterator[None]:
    """Call ``handler`` on SIGINT and SIGTERM; outside the main thread signals are somebody else's."""
    loop = asyncio.get_running_loop()
    installed = []
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(RuntimeError, ValueError):
            loop.add_signal_handler(number, handler)
            installed.append(number)
    try:
        yield
    finally:
        for number in installed:
            loop.remove_signal_handler(number)


def listen(host: str, port: int) -> socket.socket:
    """Listen on an address, before anything is loaded: of two servers started together one has it, the other is told.

    Whoever connects before the server is ready waits. Raises :class:`InvalidSettings` if it cannot be had.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise InvalidSettings(f"cannot listen on {host!r}: {error.strerror}; set --host") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise InvalidSettings(
            f"cannot listen on {host}:{port}: {error.strerror}; choose another --host or --port"
        ) from error
    return listener


def _without(probes: Collection[str]) -> Callable[[logging.LogRecord], bool]:
    """Return a filter for the access log that leaves out what ``probes``, paths, were served."""

    def tells_something(record: logging.LogRecord) -> bool:
        match record.args:
            case (_, _, str(path), _, 200):
                return path.partition("?")[0] not in probes
        return True

    return tells_something


class _Server(uvicorn.Server):
    """uvicorn, which says when it is ready, and drains before it cancels."""

    def __init__(
        self, app: FastAPI, options: ServerOptions, listener: socket.socket, ready: Callable[[str], None] | None
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=protocol_of(app.state.service),
                ws="none",
                log_config=None,  # its lines go where ours do
                log_level=options.log_level,
                access_log=options.access_log,
                timeout_keep_alive=_KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=max(1, round(options.drain_seconds)) + _FAREWELL_SECONDS,
                lifespan="off",
            )
        )
        logging.getLogger("uvicorn.access").addFilter(_without(app.state.probes))
        self._service: Service = app.state.service
        self._listener = listener
        self._ready = ready

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn's, but a signal is not raised again afterwards: it would kill us before the engine is stopped."""
        with _handling_signals(self._on_signal):
            yield

    async def stop_on(self, event: asyncio.Event) -> None:
        """Begin to shut down when ``event`` is set."""
        await event.wait()
        self.should_exit = True

    def _on_signal(self) -> None:
        self.force_exit = self.should_exit
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and self._ready is not None:
            host, port = self._listener.getsockname()[:2]
            self._ready(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._service.draining = True
        deadline = asyncio.create_task(self._abort_late_requests())
        try:
            await super().shutdown(sockets)
        finally:
            deadline.cancel()

    async def _abort_late_requests(self) -> None:
        await asyncio.sleep(self._service.options.drain_seconds)
        late = self._service.in_flight
        if late:
            logger.warning(
                "%d requests did not end within %gs: aborting them", late, self._service.options.drain_seconds
            )
        self._service.stopping = True
        await self._service.frontend.abort()
