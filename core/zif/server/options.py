"""What the HTTP side can be told; :class:`zif.settings.Settings` is where users set it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

DEFAULT_QUEUE = 8192
"""Sequences that may wait where nothing is said."""


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """Settings of the HTTP server alone. ``docs/security.md`` lists the limits and what is answered beyond them.

    ``max_concurrent_requests`` is counted from a request's headers on, ``max_total_body_bytes`` over all bodies that
    are in memory at once, ``max_queued`` in sequences: a request has prompts times ``n`` of them.
    With ``api_keys`` everything but ``/``, ``/health``, ``/ping`` and ``/metrics`` wants one of them as a bearer token.
    On SIGTERM running requests have ``drain_seconds`` to end. ``model_path`` is only reported.
    """

    host: str = "127.0.0.1"
    port: int = 30000
    api_keys: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    cache_isolation: Literal["none", "api-key"] = "none"
    model_path: str = ""
    max_concurrent_requests: int = 2048
    max_queued: int = DEFAULT_QUEUE
    max_connections: int = 8192
    max_head_bytes: int = 64 * 2**10
    max_headers: int = 128
    head_timeout: float = 10.0
    max_body_bytes: int = 32 * 2**20
    max_total_body_bytes: int = 256 * 2**20
    body_timeout: float = 60.0
    write_timeout: float = 30.0
    max_choices: int = 2048
    incremental_streaming_output: bool = False
    drain_seconds: float = 30.0
    health_generate_timeout: float = 20.0
    log_level: str = "info"
    access_log: bool = True
