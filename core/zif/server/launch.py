"""``zif serve``: an engine in its own process behind an HTTP server in this one."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from zif.contract.errors import InvalidSettings
from zif.engine.part import model_path
from zif.opening import open_frontend
from zif.process.build import served_name
from zif.process.client import ProcessClient
from zif.server.options import DEFAULT_QUEUE, ServerOptions
from zif.server.runner import listen, run_server

if TYPE_CHECKING:
    from zif.settings import Settings


def serve(settings: Settings) -> int:
    """Serve ``settings.model`` until SIGINT or SIGTERM; the exit code, which is 1 if the engine died meanwhile.

    Raises the deliberate errors of :mod:`zif.contract.errors`, those of the engine's start included.
    """

    def ready(url: str) -> None:
        print(f"zif serves {served_name(settings)} at {url}/v1 (Ctrl-C stops it)", file=sys.stderr, flush=True)

    options = server_options(settings)
    with listen(options.host, options.port) as listener:
        frontend = open_frontend(settings, ProcessClient(settings))
        failure = run_server(frontend, options, listener=listener, ready=ready)
    if failure is not None:
        print(f"error: the engine died: {failure}", file=sys.stderr)
        return 1
    return 0


def server_options(settings: Settings) -> ServerOptions:
    """What of the settings is for the HTTP side."""
    return ServerOptions(
        host=settings.host,
        port=settings.port,
        api_keys=api_keys(settings),
        allowed_hosts=settings.allowed_hosts,
        cors_origins=settings.cors_origins,
        cache_isolation=settings.cache_isolation,
        model_path=model_path(settings),
        max_concurrent_requests=settings.max_concurrent_requests,
        max_queued=settings.max_queued_requests or DEFAULT_QUEUE,
        max_body_bytes=settings.max_body_bytes,
        max_total_body_bytes=max(settings.max_body_bytes, settings.max_total_body_bytes),
        incremental_streaming_output=settings.incremental_streaming_output,
        drain_seconds=settings.drain_timeout,
        log_level=settings.log_level,
        access_log=settings.access_log,
    )


def api_keys(settings: Settings) -> tuple[str, ...]:
    """The keys that clients may send: ``--api-key``, and a key a line of ``--api-key-file``.

    Blank lines of the file, and those that begin with ``#``, count for nothing. Raises :class:`InvalidSettings` for a
    file that cannot be read, or holds no key: a server that was to have keys must not run without.
    """
    keys = [] if settings.api_key is None else [settings.api_key.get_secret_value()]
    path = settings.api_key_file
    if path is not None:
        try:
            lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidSettings(f"--api-key-file {path}: {error}") from error
        listed = [line for line in lines if line and not line.startswith("#")]
        if not listed:
            raise InvalidSettings(f"--api-key-file {path}: holds no key; write one a line")
        keys += listed
    return tuple(dict.fromkeys(keys))
