"""Reading JSON bodies: strictly UTF-8, no NaN, no lone surrogates, no bottomless nesting (orjson sees to it)."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute


class _JsonRequest(Request):
    async def json(self) -> Any:
        return orjson.loads(await self.body())


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
