"""Where log lines go, in every process of zif."""

from __future__ import annotations

import logging
import sys

PROGRESS = "zif.progress"
"""The logger of what makes people wait at a start, as what is compiled: a terminal is told, whatever the level."""


def configure_logging(level: str) -> None:
    """Log to standard error from ``level`` on; standard output belongs to a command's result."""
    logging.basicConfig(
        level=level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    if sys.stderr.isatty() and level in ("info", "warning"):
        logging.getLogger(PROGRESS).setLevel(logging.INFO)
