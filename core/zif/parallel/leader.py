"""The leading rank: starts a process for each other rank, has them do what it does, and ends with them.

Launches go to the followers before the leader makes them itself, and nothing comes back: a step costs the leader
a message a follower. A thread listens to each follower, for its last words and its end.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from zif.contract.comm import Group
from zif.contract.errors import EngineDead, ZifError
from zif.engine.launch import Launch, Observer
from zif.engine.wire import Failed
from zif.parallel.store import Store
from zif.parallel.wire import Begin, Join, LaunchWriter, Pages, Ready, Report, Tune

if TYPE_CHECKING:
    from zif.engine.shapes import Limits
    from zif.plugins import Selection
    from zif.settings import Settings

logger = logging.getLogger(__name__)
Abandon = Callable[[str], None]
"""Ends an engine whose thread waits for ranks that are gone: says why to whoever waits for the engine."""

GRACE_SECONDS = 1.0
"""How long the engine gets to end by itself once a follower is gone, before it is abandoned."""
LAST_WORDS_SECONDS = 2.0
"""How long what went wrong here waits to be explained by what went wrong there."""
STOP_SECONDS = 5.0
"""How long followers get to end."""


class Followers(Observer):
    """The processes of the ranks but the first, which make every launch that the runner here makes.

    They end with this process, however it ends.
    """

    def __init__(self, settings: Settings, selection: Selection, abandon: Abandon | None = None) -> None:
        """Start them. Raises InvalidSettings or NoUsableDevice where devices do not suffice."""
        devices = selection.devices_of_ranks(settings.tp_size)
        self._store = Store()
        self.group = Group(0, devices, self._store.path)
        """As the leader is part of it."""
        self.failure: ZifError | None = None
        """What went wrong with the first that failed."""
        self._abandon = abandon
        self._writer = LaunchWriter()
        self._failed = threading.Event()
        self._closing = threading.Event()
        self._reports: queue.SimpleQueue[Report | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._pipes: list[Connection] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        name = selection.plugin.name
        options = tuple(f"{name}.{key}={value}" for key, value in selection.options.items())
        for rank in range(1, len(devices)):
            own = {"device": f"{name}:{devices[rank].index}", "device_opt": options}
            self._start(Join(settings.model_copy(update=own), Group(rank, devices, self._store.path)))

    def agree(self, num_pages: Sequence[int]) -> Sequence[int]:
        """The pages of each cache group that fit on every rank, of which ``num_pages`` fit on this one.

        Raises what a follower raised.
        """
        everywhere = [num_pages, *(report.counts for report in self._gather(Pages))]
        return [min(counts) for counts in zip(*everywhere, strict=True)]

    def begin(self, num_pages: Sequence[int], limits: Limits) -> None:
        """Have them make their runners; returns when all have."""
        self._tell(Begin(num_pages, limits))
        self._gather(Ready)

    def launching(self, launch: Launch) -> None:
        """Have them make the launch. Does not wait."""
        self._send(self._writer.message(launch))

    def tuning(self) -> None:
        """Have them tune in what they run from now on. Does not wait."""
        self._tell(Tune())

    def explain(self, error: Exception) -> Exception | None:
        """What went wrong with a follower, if that may be why."""
        self._failed.wait(LAST_WORDS_SECONDS)
        return self.failure

    def closing(self, *, failed: bool) -> None:
        """Stop them; those of a device that has ``failed`` at once."""
        self.stop(0.0 if failed else STOP_SECONDS)

    def closed(self) -> None:
        """Leave nothing behind: the communicator does not look into the store any more."""
        self.close()

    def close(self, patience: float = STOP_SECONDS) -> None:
        """Stop them, and leave nothing behind."""
        self.stop(patience)
        self._store.remove()

    def stop(self, patience: float = STOP_SECONDS) -> None:
        """Stop them, and kill those that do not stop within ``patience`` seconds. Calling it again does nothing."""
        if self._closing.is_set():
            return
        self._closing.set()
        if patience:  # a rank that hangs may not read any more: telling it would wait for it
            with contextlib.suppress(EngineDead):
                self._tell(None)
        deadline = time.monotonic() + patience
        for process in self._processes:
            try:
                process.wait(max(deadline - time.monotonic(), 0))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            assert process.stdin is not None
            process.stdin.close()

    def _start(self, join: Join) -> None:
        """Start one, and a thread that listens to it.

        Not by multiprocessing: the engine's own process is a daemon of its, which may have no children, and
        a script that makes an LLM would be run again.
        """
        ours, theirs = socket.socketpair()
        paths = os.pathsep.join(os.path.abspath(path) for path in sys.path if path)
        command = [sys.executable, "-P", "-m", "zif.parallel", str(theirs.fileno())]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, pass_fds=[theirs.fileno()], env={**os.environ, "PYTHONPATH": paths}
        )
        theirs.close()
        pipe = Connection(ours.detach())
        self._processes.append(process)
        self._pipes.append(pipe)
        threading.Thread(
            target=self._listen, args=(join.group.rank, pipe, process), name="zif-rank", daemon=True
        ).start()
        with contextlib.suppress(OSError):  # it has ended already: the thread says so
            pipe.send(join)

    def _tell(self, what: Any) -> None:
        self._send(pickle.dumps(what))

    def _send(self, message: bytes) -> None:
        try:
            for pipe in self._pipes:
                pipe.send_bytes(message)
        except OSError as error:
            gone = EngineDead(f"a rank's process is gone: {error}")
            raise self.explain(gone) or gone from None

    def _gather(self, kind: type[Any]) -> list[Any]:
        reports = []
        for _ in self._processes:
            report = None if self.failure is not None else self._reports.get()
            if report is None:
                assert self.failure is not None
                raise self.failure
            assert isinstance(report, kind), f"{report} where {kind.__name__} was due"
            reports.append(report)
        return reports

    def _listen(self, rank: int, pipe: Connection, process: subprocess.Popen[bytes]) -> None:
        while True:
            try:
                report: Report = pipe.recv()
            except (EOFError, OSError):
                break
            if isinstance(report, Failed):
                self._fail(report.error(f"rank {rank} of {self.group.size}"))
            else:
                self._reports.put(report)
        code = process.wait()
        said = f"by signal {-code}" if code < 0 else f"with exit code {code}"
        if not self._closing.is_set():
            self._fail(EngineDead(f"the process of rank {rank} of {self.group.size} ended {said}"))

    def _fail(self, failure: ZifError) -> None:
        with self._lock:
            if self.failure is not None:
                return
            self.failure = failure
        logger.debug("a rank has failed: %s", failure)
        self._failed.set()
        self._reports.put(None)
        if self._closing.wait(GRACE_SECONDS):
            return
        for process in self._processes:
            process.kill()
        if self._abandon is not None:
            self._store.remove()  # the engine's process may end now: nobody else would
            self._abandon(str(failure))
