"""JAX's errors of memory, as the project's, with the way out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import jax

from zif.contract import OutOfMemory


@contextmanager
def room_for(what: str) -> Iterator[None]:
    """Raises OutOfMemory, which names ``what`` and the settings to lower, where JAX finds no room for it."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        text = str(error)
        if "RESOURCE_EXHAUSTED" not in text and "out of memory" not in text.lower():
            raise
        first = text.strip().splitlines()[0]
        raise OutOfMemory(
            f"{what} does not fit in the device's memory: {first}. Lower --chunked-prefill-size, "
            "--max-running-requests or --mem-fraction-static"
        ) from error
