"""Reading JSON bodies: strictly UTF-8, no NaN, no lone surrogates, no bottomless nesting (orjson sees to it)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute

from zif.reference.host import uncollected
from zif.server.errors import ApiError


class _JsonRequest(Request):
    async def json(self) -> Any:
        value = _loads(await self.body())
        await asyncio.sleep(0)  # others run between reading it and checking it
        return value


class _JsonRoute(APIRoute):
    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            return await handler(_JsonRequest(request.scope, request.receive))

        return handle


class JsonRouter(APIRouter):
    """A router whose bodies are parsed by orjson."""

    def __init__(self, **options: Any) -> None:
        super().__init__(route_class=_JsonRoute, **options)


MOST_VALUES = 2_000_000
MOST_CONTAINERS = 200_000
_STEP = 2**20


def check_shape(body: bytes) -> None:
    """Refuse JSON of so many values that reading it would halt the server: a byte of it can become a hundred.

    Commas, brackets and braces are counted, those within strings too. The figures are 0.05 s of reading, and more than
    any prompt of a million ids, or any conversation of 50,000 messages, has.
    """
    for limit, marks in ((MOST_VALUES, b","), (MOST_CONTAINERS, b"[{")):
        count = 0
        for start in range(0, len(body), _STEP):
            part = body[start : start + _STEP]
            count += sum(part.count(mark) for mark in marks)
            if count > limit:
                what = "values" if marks == b"," else "lists and objects"
                raise ApiError(413, f"the body has more than {limit} {what}", code="request_too_large")


def _loads(body: bytes) -> Any:
    """Parse JSON; no garbage is collected meanwhile: nothing of it can be garbage, and all of it would be walked."""
    with uncollected():
        return orjson.loads(body)
