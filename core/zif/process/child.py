"""The engine's own process, from its first moment: light to import, so that it watches its parent before all else."""

from __future__ import annotations

import functools
import gc
import logging
import multiprocessing
import multiprocessing.connection
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zif.engine.engine import Engine
    from zif.settings import Settings

logger = logging.getLogger(__name__)
YOUNG = (700, 10, 1 << 30)
"""Thresholds of the collector: objects made, and young collections, before the next; old ones are left."""
ORPHAN_SECONDS = 0.5
"""How long an engine that serves gets to close by itself once its parent has gone."""


def main(pickled: bytes, pipe: Connection) -> None:
    """Build the engine of the :class:`Settings` in ``pickled``, and serve it through ``pipe``.

    Ctrl-C and a SIGTERM to the whole group are for its parent, which drains and then stops it; should
    the parent be gone, however it went and whatever this process does just then, this one ends too.
    """
    built = threading.Event()
    threading.Thread(target=_end_with_parent, args=(built,), name="zif-parent", daemon=True).start()
    for ours in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ours, signal.SIG_IGN)
    settings: Settings = pickle.loads(pickled)
    from zif.contract.errors import ZifError
    from zif.logs import configure_logging

    configure_logging(settings.log_level)
    from zif.process.loop import PipePort, serve

    try:
        serve(functools.partial(settled, settings, built), PipePort(pipe))
    except ZifError:
        logger.debug("engine process ends", exc_info=True)
        raise SystemExit(1) from None  # the client has been told, and says it to the user
    except BaseException:
        logger.debug("engine process ends at once", exc_info=True)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(1)  # what a broken device's libraries do at exit may never end


def _end_with_parent(built: threading.Event) -> None:
    """Wait for the parent's end, then end this process: a device is not held for nobody."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    if built.is_set():
        time.sleep(ORPHAN_SECONDS)
    os._exit(1)


def settled(settings: Settings, built: threading.Event, abandon: Callable[[str], None]) -> Engine:
    """The engine; what has been made until now stays, and no collection of garbage walks it again.

    It is some hundred thousand objects, most of them a framework's modules: walking them halts every request's
    stream for a tenth of a second. What comes is walked while it is young, some thousand objects at a time,
    and in whole when the engine is idle (:meth:`zif.process.loop.PipePort.receive`): thousands of requests are
    a million objects.
    """
    from zif.process.build import build_engine

    engine = build_engine(settings, abandon)
    built.set()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*YOUNG)
    return engine
