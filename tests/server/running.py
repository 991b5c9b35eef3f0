"""A real server on a loopback port, in the test's own event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from zif.frontend import Frontend
from zif.server import ServerOptions, serve


@dataclass
class Running:
    """``url`` of a server; ``stop`` begins its shutdown, ``ended`` is the whole run."""

    url: str
    stop: asyncio.Event
    ended: asyncio.Task[None]


@asynccontextmanager
async def running(frontend: Frontend, **options: Any) -> AsyncIterator[Running]:
    """Serve ``frontend`` on a free port for as long as the block lasts."""
    url: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    stop = asyncio.Event()
    settings = ServerOptions(port=0, log_level="error", **options)
    task = asyncio.create_task(serve(frontend, settings, ready=url.set_result, stop=stop))
    await asyncio.wait((url, task), return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        await task
    try:
        yield Running(url.result(), stop, task)
    finally:
        stop.set()
        await task
