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
from multiprocessing.connection import Connection

from zif.engine.runner import Runner
from zif.engine.wire import Failed
from zif.parallel.wire import Begin, Join, LaunchReader, Pages, Ready, Tune

logger = logging.getLogger(__name__)
IDLE_SECONDS = 1.0
"""After so long without a launch, a follower looks whether its device is well."""


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
    pipe.send(Pages(plan_pages(part.plan, part.groups, backend, part.formats)))
    begin: Begin = pipe.recv()
    runner = part.runner(begin.num_pages, begin.limits, seed=0)
    gc.collect()
    gc.freeze()  # as the leader does: a collection here would halt all ranks
    pipe.send(Ready())
    _obey(pipe, runner)


def _obey(pipe: Connection, runner: Runner) -> None:
    """Do what the leader says, until it says that this is all."""
    reader = LaunchReader(runner.spec)
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
                runner.run(reader.launch(*launch))


def _end_with_leader() -> None:
    sys.stdin.buffer.read()
    os._exit(1)
