"""``zif serve``: an engine in its own process behind an HTTP server in this one."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from zif.engine.part import model_path
from zif.opening import open_frontend
from zif.process.build import served_name
from zif.process.client import ProcessClient
from zif.server.options import ServerOptions
from zif.server.runner import run_server

if TYPE_CHECKING:
    from zif.settings import Settings


def serve(settings: Settings) -> int:
    """Serve ``settings.model`` until SIGINT or SIGTERM; the exit code.

    Raises the deliberate errors of :mod:`zif.contract.errors`, those of the engine's start included.
    """

    def ready(url: str) -> None:
        print(f"zif serves {served_name(settings)} at {url}/v1 (Ctrl-C stops it)", file=sys.stderr, flush=True)

    run_server(open_frontend(settings, ProcessClient(settings)), server_options(settings), ready=ready)
    return 0


def server_options(settings: Settings) -> ServerOptions:
    """What of the settings is for the HTTP side."""
    return ServerOptions(
        host=settings.host,
        port=settings.port,
        api_key=settings.api_key.get_secret_value() if settings.api_key is not None else None,
        model_path=model_path(settings),
        max_concurrent_requests=settings.max_concurrent_requests,
        max_body_bytes=settings.max_body_bytes,
        sampling_defaults=settings.sampling_defaults,
        drain_seconds=settings.drain_timeout,
        log_level=settings.log_level,
    )
