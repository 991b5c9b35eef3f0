"""Panics of libraries in Rust: they arrive as an exception that is no :class:`Exception`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from zif.contract.errors import InvalidRequest


def is_panic(error: BaseException) -> bool:
    """Whether ``error`` is one; each library has a class of that name of its own, and none exports it."""
    return type(error).__name__ == "PanicException"


@contextmanager
def refused(what: str, param: str) -> Iterator[None]:
    """Raise whatever the ``tokenizers`` library raises inside as :class:`InvalidRequest`: it cannot do ``what``."""
    try:
        yield
    except InvalidRequest:
        raise
    except BaseException as error:  # the library raises bare Exception
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        raise InvalidRequest(f"the tokenizer cannot {what}: {str(error)[:200]}", param) from error
