"""For every test: one thread a process, because pytest runs as many processes as there are cores."""

from __future__ import annotations

import os
import signal

# A shell that starts pytest in the background has SIGINT ignored, also where a test sends one.
signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.setdefault("OMP_NUM_THREADS", "1")
