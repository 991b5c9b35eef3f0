"""In-process use: an engine in a thread, and the same frontend as the server's."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import AsyncGenerator, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import aclosing
from functools import partial
from typing import Any, TypeVar, overload

from zif.contract.errors import EngineDead, InvalidRequest
from zif.frontend.output import Completion, Delta, collect
from zif.opening import open_frontend
from zif.process.build import build_engine
from zif.process.client import ThreadClient
from zif.sampling.params import SamplingParams
from zif.settings import Settings

T = TypeVar("T")
Prompt = str | Sequence[int]
Messages = Sequence[Mapping[str, Any]]


class LLM:
    """A model in this process, sync and async::

        with zif.LLM("Qwen/Qwen3-0.6B", device="cpu") as llm:
            print(llm.generate("Hello,", SamplingParams(max_tokens=20)).text)
            async for delta in llm.astream("Hello,"):  # inside a coroutine
                print(delta.text, end="")

    Keyword arguments are :class:`zif.settings.Settings`, named as the flags of ``zif serve`` are.
    Raises what building the engine raises. Use it as a context manager, or :meth:`close` it; one that
    is dropped, or is there when the program ends, closes itself. Every method may be called from any
    thread, and from any event loop. An interrupted call (Ctrl-C) aborts its requests. A full collection of garbage
    walks a framework's modules for a tenth of a second, which halts all requests: a program that minds calls
    ``gc.freeze()`` once it has made its LLM.
    """

    def __init__(self, model: str | None = None, *, progress: bool = True, **settings: Any) -> None:
        self.settings = Settings(model=model, **settings) if model is not None else Settings(**settings)
        self._engine = ThreadClient(partial(build_engine, self.settings, progress=progress))
        self.frontend = open_frontend(self.settings, self._engine)
        self._own = _OwnLoop()
        self._close = weakref.finalize(self, _close, self._engine, self._own)
        try:
            self._wait(self.frontend.start())
        except BaseException:
            self.close()
            raise

    # -- sync ----------------------------------------------------------------------------------------------

    @overload
    def generate(self, prompts: str, params: SamplingParams | None = None) -> Completion: ...  # type: ignore[overload-overlap]
    @overload
    def generate(
        self, prompts: Sequence[Prompt], params: SamplingParams | Sequence[SamplingParams] | None = None
    ) -> list[Completion]: ...
    def generate(
        self,
        prompts: str | Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
    ) -> Completion | list[Completion]:
        """Continue a text, or a list of texts and token-id lists; all of them run together.

        ``params`` are one for all prompts, or one each. Raises InvalidRequest for what cannot be served.
        """
        if isinstance(prompts, str):
            return self._wait(self._complete([prompts], params))[0]
        return self._wait(self._complete(prompts, params))

    def chat(self, messages: Messages, params: SamplingParams | None = None) -> Completion:
        """Answer a conversation: a list of ``{"role": ..., "content": ...}``."""
        return self._wait(self.achat(messages, params))

    def stream(self, prompt: Prompt | Messages, params: SamplingParams | None = None) -> Iterator[Delta]:
        """The pieces of one completion as they come; leaving the loop early aborts it."""
        deltas = self._stream(prompt, params)
        try:
            while (delta := self._wait(_next(deltas))) is not None:
                yield delta
        finally:
            if not self._own.closed:  # closing the LLM has ended it
                self._wait(deltas.aclose())

    # -- async ---------------------------------------------------------------------------------------------

    async def agenerate(
        self, prompts: Sequence[Prompt], params: SamplingParams | Sequence[SamplingParams] | None = None
    ) -> list[Completion]:
        """As :meth:`generate` of a list."""
        return await self._hop(self._complete(prompts, params))

    async def achat(self, messages: Messages, params: SamplingParams | None = None) -> Completion:
        """As :meth:`chat`."""
        return await self._hop(self.frontend.complete(messages, params or self._defaults()))

    async def astream(
        self, prompt: Prompt | Messages, params: SamplingParams | None = None
    ) -> AsyncGenerator[Delta, None]:
        """As :meth:`stream`."""
        deltas = self._stream(prompt, params)
        try:
            while (delta := await self._hop(_next(deltas))) is not None:
                yield delta
        finally:
            if not self._own.closed:
                await self._hop(deltas.aclose())

    # -- the engine ----------------------------------------------------------------------------------------

    def stats(self) -> dict[str, Any]:
        """Gauges and counters; see :meth:`zif.frontend.Frontend.stats`."""
        return self._wait(self.frontend.stats())

    def flush_cache(self) -> bool:
        """Forget cached prefixes; False, and nothing is done, while requests run."""
        return self._wait(self._engine.flush_cache())

    def close(self) -> None:
        """Abort what runs and stop the engine. Calling it again does nothing."""
        self._close()

    def __enter__(self) -> LLM:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- inside --------------------------------------------------------------------------------------------

    def _defaults(self) -> SamplingParams:
        defaults: Mapping[str, Any] = self.frontend.model.sampling_defaults
        return SamplingParams(**defaults)

    async def _complete(
        self, prompts: Sequence[Prompt], params: SamplingParams | Sequence[SamplingParams] | None
    ) -> list[Completion]:
        if any(isinstance(prompt, int) for prompt in prompts):
            raise InvalidRequest("prompts is a list of prompts: pass one prompt of token ids as [[1, 2, 3]]", "prompt")
        ids = await self.frontend.encode_all(prompts)
        async with aclosing(self.frontend.generate(ids, params or self._defaults())) as deltas:
            return await collect(ids, deltas)

    async def _stream(self, prompt: Prompt | Messages, params: SamplingParams | None) -> AsyncGenerator[Delta, None]:
        chat = not isinstance(prompt, str) and bool(prompt) and isinstance(prompt[0], Mapping)
        encode: Any = self.frontend.encode_chat if chat else self.frontend.encode
        async with aclosing(self.frontend.generate([await encode(prompt)], params or self._defaults())) as deltas:
            async for delta in deltas:
                yield delta

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return self._own.run(work)

    async def _hop(self, work: Coroutine[Any, Any, T]) -> T:
        return await self._own.hop(work)


class _OwnLoop:
    """An event loop on a thread of its own, which every other thread and loop can hand work to."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="zif-llm", daemon=True)
        self._thread.start()

    @property
    def closed(self) -> bool:
        """Whether it has been stopped."""
        return self._loop.is_closed()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for ``work``. Whatever interrupts the wait is raised once the work has been cancelled and has ended."""
        tasks: list[asyncio.Task[Any]] = []

        async def tracked() -> T:
            task = asyncio.current_task()
            assert task is not None
            tasks.append(task)
            return await work

        future = self._submit(tracked(), work)
        try:
            return future.result()
        except BaseException:
            if not future.done():
                self._submit(_cancelled(tasks)).result()
            raise

    async def hop(self, work: Coroutine[Any, Any, T]) -> T:
        """Await ``work`` from the loop at hand, which may be this one."""
        if asyncio.get_running_loop() is self._loop:
            return await work
        return await asyncio.wrap_future(self._submit(work))

    def stop(self) -> None:
        """End the loop and its thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _submit(self, work: Coroutine[Any, Any, T], *others: Coroutine[Any, Any, Any]) -> Future[T]:
        if self._loop.is_closed():
            for never in (work, *others):
                never.close()
            raise EngineDead("this LLM has been closed")
        return asyncio.run_coroutine_threadsafe(work, self._loop)


def _close(engine: ThreadClient, loop: _OwnLoop) -> None:
    loop.run(engine.shutdown(0.0))
    loop.stop()


async def _cancelled(tasks: list[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)


async def _next(deltas: AsyncGenerator[Delta, None]) -> Delta | None:
    return await anext(deltas, None)
