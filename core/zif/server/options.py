"""What the HTTP side can be told; :class:`zif.settings.Settings` is where users set it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """Settings of the HTTP server alone.

    Requests beyond ``max_concurrent_requests`` are refused with 429, bodies beyond ``max_body_bytes``
    with 413, and bodies that take longer than ``body_timeout`` seconds to arrive with 408.
    ``max_choices`` bounds the completions (prompts times ``n``) of one request.
    ``sampling_defaults``: what a request leaves open comes from the checkpoint's generation config
    (``model``), or is temperature 1 and no truncation (``openai``). With ``api_key`` everything but
    ``/health`` and ``/metrics`` wants it as a bearer token. On SIGTERM running requests have
    ``drain_seconds`` to end. ``model_path`` is only reported.
    """

    host: str = "127.0.0.1"
    port: int = 30000
    api_key: str | None = None
    model_path: str = ""
    max_concurrent_requests: int = 2048
    max_body_bytes: int = 32 * 2**20
    body_timeout: float = 60.0
    max_choices: int = 2048
    sampling_defaults: Literal["model", "openai"] = "model"
    drain_seconds: float = 30.0
    health_generate_timeout: float = 20.0
    log_level: str = "info"
