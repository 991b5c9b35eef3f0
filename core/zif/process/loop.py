"""The engine's loop: take commands, step while there is work, send news."""

from __future__ import annotations

import gc
import logging
import os
import queue
import select
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Protocol

from zif.contract.errors import ZifError
from zif.engine.engine import Engine
from zif.engine.wire import Abort, Add, Ask, Beat, Command, Failed, Message, News, Ready, Reply, Stop

Build = Callable[[Callable[[str], None]], Engine]
"""Makes an engine; what it is given is the port's ``abandon``."""
logger = logging.getLogger(__name__)
ABANDON_SECONDS = 2.0
"""How long the last words of an engine that is abandoned wait for what it is just saying."""
SELECTABLE = 1024
"""File descriptors below it can be waited for with select(2)."""
COMMANDS_SECONDS = 0.005
"""Time that commands may take before a step that could begin does: a flood of them must not halt what runs."""
BEAT_SECONDS = 1.0
"""How long steps may go on without news before their client is told that they do."""


IDLE_SECONDS = 0.5
"""After so long without work or a command garbage is collected."""


class Port(Protocol):
    """The engine's end of the line to its client.

    ``patient``: commands come one by one, at any time, so that a step is better launched late.
    """

    patient: bool

    def receive(self, seconds: float | None) -> Command | None:
        """The next command, or None after so many ``seconds`` without one (None: never). Stop if the client is gone."""
        ...

    def send(self, message: Message) -> None: ...

    def abandon(self, reason: str) -> None:
        """Called on another thread: the engine's own waits for what will not come. Say so, and end it if possible."""
        ...


class QueuePort:
    """To a client in this process: commands come by a queue, news goes to a callback.

    What it has, it mostly has from the start; and its threads would wake this one late.
    """

    patient = False

    def __init__(self, commands: queue.SimpleQueue[Command], deliver: Callable[[Message], None]) -> None:
        self._commands = commands
        self.send = deliver

    def receive(self, seconds: float | None) -> Command | None:
        try:
            return self._commands.get(seconds != 0, seconds)
        except queue.Empty:
            return None

    def abandon(self, reason: str) -> None:
        """The thread stays, as a daemon."""
        self.send(Failed("EngineDead", reason))


class PipePort:
    """To a client in another process. A client that has gone away reads as Stop."""

    patient = True

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._sending = threading.Lock()

    def receive(self, seconds: float | None) -> Command | None:
        try:
            if seconds is not None and not self._ready(seconds):
                return None
            if seconds is None and not self._ready(IDLE_SECONDS):
                gc.collect()
            command: Command = self._pipe.recv()
        except (EOFError, ConnectionResetError):
            return Stop()
        return command

    def _ready(self, seconds: float) -> bool:
        if seconds and self._pipe.fileno() < SELECTABLE:  # poll() would round up to milliseconds
            return bool(select.select([self._pipe], [], [], seconds)[0])
        return self._pipe.poll(seconds)

    def send(self, message: Message) -> None:
        with self._sending:
            self._pipe.send(message)

    def abandon(self, reason: str) -> None:
        """The process ends; without a word, where the engine's thread is stuck in one of its own."""
        try:
            if self._sending.acquire(timeout=ABANDON_SECONDS):
                self._pipe.send(Failed("EngineDead", reason))
        finally:
            os._exit(1)


def serve(build: Build, port: Port) -> None:
    """Build an engine and run it until told to stop, or until it fails; a failure is sent before it ends."""
    running = failed = False
    engine = None
    try:
        engine = build(port.abandon)
        port.send(Ready(engine.stats()))
        running = True
        _run(engine, port)
    except BrokenPipeError:
        logger.warning("the engine's client has gone; stopping")
    except BaseException as error:  # SystemExit of a library too: whoever waits has to be told
        failed = True
        bug = running and not isinstance(error, ZifError)  # what was not meant to happen is shown whole
        logger.log(logging.ERROR if bug else logging.DEBUG, "the engine failed", exc_info=True)
        port.send(Failed.of(error))
        raise
    finally:
        if engine is not None:
            engine.close(failed=failed)


def _run(engine: Engine, port: Port) -> None:
    said = 0.0
    while True:
        spent = 0.0
        while (command := port.receive(_patience(engine, port))) is not None:
            if isinstance(command, Stop):
                return
            began = time.monotonic()
            _obey(engine, command, port)
            spent += time.monotonic() - began
            if spent > COMMANDS_SECONDS and engine.has_work and not engine.patience:
                break
        news = engine.advance()
        if news:
            port.send(news)
            said = time.monotonic()
        elif time.monotonic() - said > BEAT_SECONDS:
            port.send(Beat())
            said = time.monotonic()


def _patience(engine: Engine, port: Port) -> float | None:
    """How long to wait for the next command."""
    if not engine.has_work:
        return None
    return engine.patience if port.patient else 0.0


def _obey(engine: Engine, command: Command, port: Port) -> None:
    match command:
        case Add(request):
            refusal = engine.add(request)
            if refusal is not None:
                port.send(News(others=[refusal]))
        case Abort(request_ids):
            port.send(News(others=engine.abort(request_ids)))
        case Ask(number, "flush_cache"):
            port.send(Reply(number, engine.flush_cache()))
        case Ask(number, "stats"):
            port.send(Reply(number, engine.stats()))
