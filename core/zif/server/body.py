"""Routers: bodies are JSON, strictly UTF-8, no NaN, no lone surrogates, no bottomless nesting (orjson sees to it).

A route declares what it is, where that matters before it is reached; :class:`~zif.server.gate.Gate` reads it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Literal

import orjson
from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute
from fastapi.types import DecoratedCallable
from starlette.routing import BaseRoute

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
    """A router whose bodies are parsed by orjson, and whose routes can declare a :data:`Duty`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(route_class=_JsonRoute, **options)

    def generates(self, path: str) -> Callable[[DecoratedCallable], DecoratedCallable]:
        """Declare a POST route that has tokens made: it holds a place among the concurrent requests."""
        return self.post(path, openapi_extra={_DUTY: "generating"})

    def probe(self, path: str) -> Callable[[DecoratedCallable], DecoratedCallable]:
        """Declare a GET route that is asked often, by what has no API key: it needs none, and is not logged."""
        return self.get(path, openapi_extra={_DUTY: "probe"})

    def open(self, path: str) -> Callable[[DecoratedCallable], DecoratedCallable]:
        """Declare a GET route that needs no API key: it says nothing of what is served."""
        return self.get(path, openapi_extra={_DUTY: "open"})


Duty = Literal["generating", "probe", "open"]
_DUTY = "x-zif-duty"


def paths_of(duty: Duty, routes: Iterable[BaseRoute]) -> frozenset[str]:
    """Return the paths of the ``routes`` that declare ``duty``."""
    return frozenset(
        route.path for route in routes if isinstance(route, APIRoute) and (route.openapi_extra or {}).get(_DUTY) == duty
    )


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
