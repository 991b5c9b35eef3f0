"""A rank that follows: a process that loads its part of the model and carries out the leader's launches.

It keeps no state of requests and reads no result: it runs the programs that the leading rank runs, in that order,
with the same inputs. So there is one scheduler, and what a follower does not do cannot differ.
"""

from __future__ import annotations

import gc
import logging
import os
import select
import signal
import sys
import threading
from collections.abc import Mapping
from multiprocessing.connection import Connection
from types import MappingProxyType
from typing import Any

from zif.contract.step import HostStep
from zif.engine.runner import Key, Runner
from zif.engine.wire import Failed
from zif.parallel.wire import Begin, Join, LaunchReader, Pages, Ready, Tune

logger = logging.getLogger(__name__)
IDLE_SECONDS = 1.0
"""After so long without a launch, a follower looks whether its device is well."""


class FollowingRunner(Runner):
    """Device programs of a rank that is told what to run."""

    _outputs: Mapping[str, Any] = MappingProxyType({})

    def replay(self, key: Key, inputs: dict[str, Any], step: HostStep | None) -> None:
        """Carry out one launch; see :class:`zif.parallel.wire.LaunchWriter`."""
        if step is not None:
            self._prepare(step)
        if key[0] == "adjust":
            self.table.adjustments.ensure()
        given = {name: self._outputs[name] if value is None else value for name, value in inputs.items()}
        self._outputs = self._run(key, given)


def main(descriptor: int) -> None:
    """The process: ends with the leader, whose end of standard input this one holds open.

    Ctrl-C and a SIGTERM to the whole group are for the leader, which stops its followers.
    """
    for ours in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ours, signal.SIG_IGN)
    threading.Thread(target=_end_with_leader, name="zif-leader", daemon=True).start()
    pipe = Connection(descriptor)
    code = 0
    try:
        _follow(pipe)
    except (EOFError, ConnectionResetError, BrokenPipeError):
        code = 1  # the leader is gone
    except BaseException as error:
        code = 1
        logger.debug("rank failed", exc_info=True)
        pipe.send(Failed.of(error))
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)  # a device's libraries may wait, at exit, for ranks that are gone


def _follow(pipe: Connection) -> None:
    from zif.engine.memory import plan_pages
    from zif.engine.part import load_part
    from zif.logs import configure_logging
    from zif.plugins import select as select_device

    join: Join = pipe.recv()
    settings = join.settings
    configure_logging("debug" if settings.log_level == "debug" else "warning")  # the leader says the rest
    selection = select_device(settings.device, settings.device_opt)
    backend = selection.create_backend(join.group)
    part = load_part(settings, backend, selection, load_format=settings.load_format, progress=False)
    pipe.send(Pages(plan_pages(part.plan, part.model.cache_groups, backend)))
    begin: Begin = pipe.recv()
    runner = part.runner(begin.num_pages, begin.limits, 0, FollowingRunner)
    gc.collect()
    gc.freeze()  # as the leader does: a collection here would halt all ranks
    pipe.send(Ready())
    _obey(pipe, runner)


def _obey(pipe: Connection, runner: FollowingRunner) -> None:
    """Do what the leader says, until it says that this is all."""
    reader = LaunchReader(lambda key: runner.spec(key).inputs)
    arrivals = select.poll()  # Connection.poll makes a selector each time
    arrivals.register(pipe, select.POLLIN)
    while True:
        if not arrivals.poll(IDLE_SECONDS * 1e3):
            runner.backend.runtime.synchronize()  # raises what the device raised
        match pipe.recv():
            case None:
                return
            case Tune():
                runner.tune()
            case launch:
                runner.replay(*reader.launch(*launch))


def _end_with_leader() -> None:
    sys.stdin.buffer.read()
    os._exit(1)
