"""Reading server-sent events."""

from __future__ import annotations

import json
from typing import Any

import httpx


def events(response: httpx.Response) -> list[Any]:
    """Return the payloads of a finished stream, ``[DONE]`` as a string."""
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    parts = response.content.decode().split("\n\n")
    assert parts.pop() == ""
    payloads = [part.removeprefix("data: ") for part in parts]
    return [payload if payload == "[DONE]" else json.loads(payload) for payload in payloads]
