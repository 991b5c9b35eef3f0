"""Clients of an engine: in a thread of this process, or in a process of its own.

Both carry out :class:`zif.frontend.client.EngineClient`. An asyncio loop owns a client; what the
engine sends arrives on another thread and is handed over.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import multiprocessing
import pickle
import queue
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Sequence
from typing import TYPE_CHECKING, Any

from zif.contract.errors import EngineDead
from zif.engine.wire import Abort, Add, Ask, Beat, Command, Failed, Message, News, Question, Ready, Reply, Stop
from zif.messages import EngineOutput, EngineRequest
from zif.process import child
from zif.process.inbox import Inbox

if TYPE_CHECKING:
    from zif.process.loop import Build
    from zif.settings import Settings

logger = logging.getLogger(__name__)
STOP_SECONDS = 5.0
"""How long an engine gets to leave its loop before it is ended."""
WATCH_SECONDS = 5.0
"""How often a client looks, at the least, whether its engine hangs."""


class Client(ABC):
    """What both clients share: requests' queues, questions and their answers, the engine's end."""

    def __init__(self) -> None:
        self._inboxes: dict[str, Inbox] = {}
        self._by_number: dict[int, Inbox] = {}
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._numbers = itertools.count()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ready: asyncio.Future[dict[str, Any]] | None = None
        self._failure: str | None = None
        self._stopping = False
        self._owed: set[str] = set()
        self._heard = 0.0

    @property
    def failure(self) -> str | None:
        """Why the engine is dead; None while it is well."""
        return self._failure

    @property
    def facts(self) -> dict[str, Any]:
        """What is constant of the engine: device, model, dtype, vocabulary, limits. Known once started."""
        assert self._ready is not None
        return self._ready.result()

    async def start(self) -> None:
        """Build the engine; returns when it is ready. Raises what building it raised."""
        self._loop = asyncio.get_running_loop()
        self._ready = self._loop.create_future()
        self._launch()
        await self._ready
        limit = float(self.facts.get("watchdog_timeout", 0.0))
        if limit:
            self._watch(limit)

    async def submit(self, request: EngineRequest) -> AsyncGenerator[EngineOutput, None]:
        """See :meth:`zif.frontend.client.EngineClient.submit`."""
        if self._failure is not None or self._stopping:
            raise EngineDead(self._failure or "the engine is shutting down")
        inbox = Inbox(request.request_id)
        self._expect()
        self._owed.add(request.request_id)
        self._inboxes[request.request_id] = inbox
        self._post(Add(request))
        try:
            while True:
                output = await inbox.get()
                if output.finish_reason == "error":
                    raise output.exception
                yield output
                if output.finish_reason is not None:
                    return
        finally:
            self._inboxes.pop(request.request_id, None)
            self._by_number.pop(inbox.number, None)
            self._owed.discard(request.request_id)

    async def abort(self, request_ids: Sequence[str] | None) -> None:
        """End these requests (None: all)."""
        if self._failure is None:
            self._post(Abort(request_ids))

    async def flush_cache(self) -> bool:
        """Forget cached prefixes; False while requests run."""
        return bool(await self._ask("flush_cache"))

    async def stats(self) -> dict[str, Any]:
        """Gauges and counters."""
        return dict(await self._ask("stats"))

    async def shutdown(self, drain_seconds: float) -> None:
        """Let running requests end for at most ``drain_seconds``, abort the rest, and stop the engine.

        Safe at any time: before, during or after a start, failed or not, and twice.
        """
        self._stopping = True
        if self._ready is None:
            return
        deadline = time.monotonic() + drain_seconds
        while self._inboxes and self._failure is None and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        if self._failure is None:
            self._post(Abort(None))
        self._post(Stop())
        patience = STOP_SECONDS if self._ready.done() and not self._ready.cancelled() else 0.0
        deadline = time.monotonic() + patience
        while self._alive() and time.monotonic() < deadline:
            await asyncio.sleep(0.005)
        if self._alive():
            self._end(patience)

    @abstractmethod
    def _launch(self) -> None:
        """Start the engine and what listens to it."""

    @abstractmethod
    def _post(self, command: Command) -> None:
        """Send a command, without blocking."""

    @abstractmethod
    def _alive(self) -> bool:
        """Whether the engine's thread or process is there."""

    @abstractmethod
    def _end(self, patience: float) -> None:
        """End an engine that did not stop within ``patience`` seconds, if that can be done."""

    async def _ask(self, question: Question) -> Any:
        if self._failure is not None:
            raise EngineDead(self._failure)
        assert self._loop is not None, "the engine has not been started"
        number = next(self._numbers)
        self._expect()
        answer = self._answers[number] = self._loop.create_future()
        self._post(Ask(number, question))
        try:
            return await answer
        finally:
            self._answers.pop(number, None)

    def _expect(self) -> None:
        """Something is about to be asked of the engine: from now on it is to be heard of."""
        if not (self._owed or self._answers):
            self._heard = time.monotonic()

    def _watch(self, limit: float) -> None:
        """Look now and again whether the engine has been silent for ``limit`` seconds while it had something to do.

        What it has said, and a slow reader has not read yet, is not owed any more.
        """
        assert self._loop is not None
        if self._failure is not None or self._stopping:
            return
        if (self._owed or self._answers) and time.monotonic() - self._heard > limit:
            said = f"no step has ended for {limit:g} s: the device, or its driver, hangs"
            self._fail(Failed("", f"{said} (--watchdog-timeout says how long is too long)"))
            self._loop.run_in_executor(None, self._end, 0.0)
            return
        self._loop.call_later(min(limit / 4, WATCH_SECONDS), self._watch, limit)

    def _deliver_soon(self, message: Message) -> None:
        """Hand a message over from the thread it arrived on."""
        assert self._loop is not None
        self._heard = time.monotonic()
        try:
            self._loop.call_soon_threadsafe(self._deliver, message)
        except RuntimeError:  # the loop has been closed: nobody listens any more
            logger.debug("dropped %s: its event loop is closed", type(message).__name__)

    def _deliver(self, message: Message) -> None:
        match message:
            case News():
                for output in message.others:
                    self._hand_on(output)
                for number, tokens in message.plain():
                    inbox = self._by_number.get(number)
                    if inbox is not None:
                        inbox.put_tokens(tokens)
            case Reply(number, value):
                answer = self._answers.get(number)
                if answer is not None and not answer.done():
                    answer.set_result(value)
            case Ready(facts):
                assert self._ready is not None
                if not self._ready.done():  # whoever waited may have given up
                    self._ready.set_result(facts)
            case Beat():
                pass
            case Failed():
                self._fail(message)

    def _hand_on(self, output: EngineOutput) -> None:
        if output.finish_reason is not None:
            self._owed.discard(output.request_id)
        inbox = self._inboxes.get(output.request_id)
        if inbox is None:
            return
        if output.number >= 0:
            inbox.number = output.number
            self._by_number[output.number] = inbox
        inbox.put(output)

    def _fail(self, failed: Failed) -> None:
        """The engine is dead: end whatever waits for it."""
        if self._failure is not None:
            return
        assert self._ready is not None
        if not self._ready.done():
            self._failure = failed.message
            self._ready.set_exception(failed.error())
            return
        self._failure = str(failed.error())
        if not self._stopping:
            logger.error("the engine has died: %s", self._failure)
        for inbox in self._inboxes.values():
            inbox.fail(EngineDead(self._failure))
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(EngineDead(self._failure))


class ThreadClient(Client):
    """An engine in a thread of this process, for :class:`zif.LLM` and for tests."""

    def __init__(self, build: Build) -> None:
        super().__init__()
        self._build = build
        self._commands: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def _launch(self) -> None:
        self._thread = threading.Thread(target=self._main, name="zif-engine", daemon=True)
        self._thread.start()

    def _main(self) -> None:
        from zif.process.loop import QueuePort, serve

        try:
            serve(self._build, QueuePort(self._commands, self._deliver_soon))
        except BaseException:
            logger.debug("engine thread ended", exc_info=True)  # Failed has told the client
        else:
            self._deliver_soon(Failed("", "the engine was shut down"))

    def _post(self, command: Command) -> None:
        self._commands.put(command)

    def _alive(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _end(self, patience: float) -> None:
        logger.debug("the engine's thread is still busy; as a daemon, it ends with the process")


class ProcessClient(Client):
    """An engine in a process of its own, so that neither HTTP nor text can delay a step."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._theirs = theirs
        self._process = context.Process(
            target=child.main, args=(pickle.dumps(settings), theirs), name="zif-engine", daemon=True
        )
        self._commands: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []

    @property
    def pid(self) -> int | None:
        """The engine process."""
        return self._process.pid

    def _launch(self) -> None:
        self._process.start()
        self._theirs.close()  # so that the engine's end reads as the end of the pipe
        for work in (self._listen, self._write):
            thread = threading.Thread(target=work, name=f"zif-engine-{work.__name__}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def _post(self, command: Command) -> None:
        self._commands.put(command)

    def _write(self) -> None:
        while True:
            command = self._commands.get()
            try:
                self._pipe.send(command)
            except (BrokenPipeError, ConnectionResetError, OSError):
                return  # the listener says that the engine is dead
            if isinstance(command, Stop):
                return

    def _listen(self) -> None:
        while True:
            try:
                message: Message = self._pipe.recv()
            except (EOFError, ConnectionResetError, OSError):
                break
            self._deliver_soon(message)
        self._process.join(STOP_SECONDS)
        if self._process.is_alive():
            self._process.kill()  # its end of the pipe is closed: whatever it still does, it is of no use
            self._process.join(STOP_SECONDS)
        code = self._process.exitcode
        said = f"by signal {-code}" if code is not None and code < 0 else f"with exit code {code}"
        self._deliver_soon(Failed("", f"the engine process ended {said}"))

    def _alive(self) -> bool:
        return self._process.is_alive()

    def _end(self, patience: float) -> None:
        if patience:
            logger.warning("the engine process did not stop within %g s; it is killed", patience)
        self._process.kill()
        self._process.join(STOP_SECONDS)  # a process that waits inside a driver may not end even so
