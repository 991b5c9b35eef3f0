"""A small client of an OpenAI-compatible server, that notes when each token came."""

from __future__ import annotations

import http.client
import json
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from zif.bench.workload import Request
from zif.contract.errors import InvalidSettings, ZifError

TIMEOUT = 600.0


@dataclass
class Timeline:
    """One request: when it was sent, when text or tokens came, and what went wrong if anything did.

    ``tokens`` is what the server counted, or the number of chunks where it counts nothing.
    """

    sent: float = 0.0
    chunks: list[float] = field(default_factory=list)
    tokens: int = 0
    error: str | None = None


class Client:
    """``base_url`` is a server's root, or its ``/v1``."""

    def __init__(self, base_url: str, api_key: str | None) -> None:
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise InvalidSettings(f"--base-url {base_url}: write it as http://host:port")
        self._parts = parts
        self._root = parts.path.rstrip("/").removesuffix("/v1")
        self._headers = {"Content-Type": "application/json"}
        if api_key is not None:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self.url = base_url

    def get(self, path: str) -> Any:
        """The JSON at ``path``. Raises :class:`ZifError`."""
        try:
            connection = self._connect()
            connection.request("GET", self._root + path, headers=self._headers)
            response = connection.getresponse()
            body = response.read()
        except OSError as error:
            raise ZifError(f"{self.url} does not answer: {error}") from error
        if response.status != 200:
            raise ZifError(f"{self.url}{path} answered {response.status}: {body[:200].decode(errors='replace')}")
        return json.loads(body or b"null")

    def complete(self, model: str, request: Request, temperature: float) -> Timeline:
        """Send a streaming completion, and wait for its end."""
        body = {
            "model": model,
            "prompt": request.prompt,
            "max_tokens": request.output_len,
            "temperature": temperature,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        timeline = Timeline(sent=time.perf_counter())
        try:
            connection = self._connect()
            connection.request("POST", f"{self._root}/v1/completions", json.dumps(body), self._headers)
            response = connection.getresponse()
            if response.status != 200:
                timeline.error = f"{response.status}: {response.read()[:200].decode(errors='replace')}"
                return timeline
            self._read(response, timeline)
        except (OSError, http.client.HTTPException) as error:
            timeline.error = f"{type(error).__name__}: {error}"
        return timeline

    def _read(self, response: http.client.HTTPResponse, timeline: Timeline) -> None:
        counted = None
        ended = False
        while line := response.readline():
            if not line.startswith(b"data:"):
                continue
            now, data = time.perf_counter(), line[5:].strip()
            if data == b"[DONE]":
                ended = True
                continue
            event = json.loads(data)
            if "error" in event:
                timeline.error = str(event["error"])
                return
            if event.get("choices"):
                timeline.chunks.append(now)
            counted = (event.get("usage") or {}).get("completion_tokens", counted)
        timeline.tokens = counted if counted is not None else len(timeline.chunks)
        if not ended:
            timeline.error = "the stream ended before its [DONE]"

    def _connect(self) -> http.client.HTTPConnection:
        kind = http.client.HTTPSConnection if self._parts.scheme == "https" else http.client.HTTPConnection
        return kind(self._parts.netloc, timeout=TIMEOUT)
