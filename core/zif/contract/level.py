"""API levels: a kernel set states the level it was written for, and what came later is kept from it.

A level is a version of the plugin API (:mod:`zif.contract.version`). Parameters of ops that are newer than a set are
dropped from its calls, so they may only be hints. Whatever changes a result is a fact of a request or a field of a
specification, and where one is newer than a set and not neutral, the set does not serve the request.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field, fields, is_dataclass
from typing import Any

_LEVEL = "zif_level"


def added(level: int, default: Any) -> Any:
    """Declare a field of a frozen specification that came with ``level``.

    ``default`` is neutral: with it, the specification means what it meant before the field was there.
    """
    return field(default=default, metadata={_LEVEL: level})


def newer_field(value: object, level: int) -> str | None:
    """The first field in ``value`` that ``level`` does not know and that is not neutral, or None.

    ``value`` is a specification or a tuple of them. The field is told as "AttentionSpec.causal = False came with
    level 2".
    """
    if isinstance(value, tuple):
        return next((found for item in value if (found := newer_field(item, level)) is not None), None)
    if not is_dataclass(value):
        return None
    for one in fields(value):
        held, since = getattr(value, one.name), one.metadata.get(_LEVEL, 1)
        if since > level and held != one.default:
            return f"{type(value).__name__}.{one.name} = {held!r} came with level {since}"
        if (found := newer_field(held, level)) is not None:
            return found
    return None


class Trimmed:
    """A kernel's callable, called without what its level does not know; other attributes are the callable's own.

    ``known``: how many parameters the op had at that level, of ``parameters``.
    """

    __slots__ = ("_dropped", "_inner", "_known")

    def __init__(self, inner: Callable[..., Any], parameters: tuple[str, ...], known: int) -> None:
        self._inner = inner
        self._known = known
        self._dropped = frozenset(parameters[known:])

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        kept = {name: value for name, value in kwargs.items() if name not in self._dropped}
        return self._inner(*args[: self._known], **kept)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)
