"""Which cached prefixes are taken from no more, after logits that were not sound."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass

from zif.scheduler.request import Request

MOST = 1024
"""Beginnings that are told apart; beyond them, everything cached is distrusted."""


@dataclass(frozen=True, slots=True)
class _Renewed:
    """A key of the prefix cache that takes the place of ``key``."""

    key: Hashable
    epoch: int
    count: int


class Distrusted:
    """The keys under which requests look for cached prefixes.

    A NaN may come of what the cache holds of a request's prompt, or have gone there. So requests that begin with the
    same unit of tokens get another key: what is cached under the old one is never found again, and evicted in time.
    """

    def __init__(self, unit: int) -> None:
        self._unit = unit
        self._epoch = 0
        self._counts: dict[tuple[Hashable, bytes], int] = {}

    def add(self, requests: Iterable[Request]) -> None:
        """Distrust what begins as ``requests`` do."""
        for request in requests:
            begin = self._begin(request)
            self._counts[begin] = self._counts.get(begin, 0) + 1
        if len(self._counts) > MOST:
            self._counts.clear()
            self._epoch += 1

    def key(self, request: Request) -> Hashable:
        """The key that ``request`` goes by from now on; its own, as long as nothing speaks against it."""
        begin = self._begin(request)
        count = self._counts.get(begin, 0)
        return _Renewed(begin[0], self._epoch, count) if count or self._epoch else begin[0]

    def _begin(self, request: Request) -> tuple[Hashable, bytes]:
        key = request.extra_key
        return key.key if isinstance(key, _Renewed) else key, request.prompt[: self._unit].tobytes()
