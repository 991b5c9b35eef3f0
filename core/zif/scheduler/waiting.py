"""The requests that wait for admission."""

from __future__ import annotations

from collections.abc import Iterator

from zif.scheduler.request import Request


class Waiting:
    """A queue that takes, and drops, any request in constant time.

    Iteration: retracted requests first, oldest first, then new ones by arrival.
    """

    def __init__(self) -> None:
        self._retracted: dict[str, Request] = {}
        self._new: dict[str, Request] = {}

    def add(self, request: Request) -> None:
        """Append a request; one that was retracted goes before all that were not."""
        (self._retracted if request.retractions else self._new)[request.id] = request

    def remove(self, request: Request) -> None:
        """Drop a request that is in the queue."""
        del (self._retracted if request.retractions else self._new)[request.id]

    def __len__(self) -> int:
        return len(self._retracted) + len(self._new)

    def __iter__(self) -> Iterator[Request]:
        yield from sorted(self._retracted.values(), key=lambda r: r.order)
        yield from self._new.values()
