"""Where log lines go, in every process of zif."""

from __future__ import annotations

import logging
import sys


def configure_logging(level: str) -> None:
    """Log to standard error from ``level`` on; standard output belongs to a command's result."""
    logging.basicConfig(
        level=level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
