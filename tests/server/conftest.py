from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.scripted_engine import ScriptedEngine
from tiny_tokenizer import write_checkpoint
from zif.frontend import Frontend, ModelInfo
from zif.server import ServerOptions, create_app
from zif.tokenizer import Tokenizer, load_tokenizer

CONTEXT = 512


async def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    """Wait until ``condition`` is true, while others run."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.001)


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    directory: Path = tmp_path_factory.mktemp("checkpoint")
    return load_tokenizer(write_checkpoint(directory))


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine()


@pytest.fixture
def frontend(tokenizer: Tokenizer, engine: ScriptedEngine) -> Frontend:
    model = ModelInfo(
        names=("tiny", "org/tiny"),
        context_length=CONTEXT,
        vocab_size=tokenizer.vocab_size,
        eos_token_ids=tokenizer.eos_token_ids,
        sampling_defaults=tokenizer.generation_defaults,
    )
    return Frontend(tokenizer, engine, model)


ClientMaker = Callable[..., httpx.AsyncClient]


@pytest.fixture
async def make_client(frontend: Frontend) -> AsyncIterator[ClientMaker]:
    """Return a function that makes a client of a server with the given options."""
    clients: list[httpx.AsyncClient] = []

    def make(**options: Any) -> httpx.AsyncClient:
        app = create_app(frontend, replace(ServerOptions(), **options))
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        clients.append(httpx.AsyncClient(transport=transport, base_url="http://localhost"))
        return clients[-1]

    yield make
    for client in clients:
        await client.aclose()


@pytest.fixture
def client(make_client: ClientMaker) -> httpx.AsyncClient:
    return make_client()
