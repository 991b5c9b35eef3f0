"""The requests that wait for admission, in the order in which they are offered it."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Generator, Hashable, Iterator

from zif.cache.prefix import PrefixCache
from zif.cache.watch import Watch
from zif.scheduler.policy import Policy
from zif.scheduler.request import Request

MOST_MATCHED = 64
"""Requests that a step matches with the cache anew, because it has more of them or may have less."""
_SPARE = 1024


class Waiting:
    """A queue that takes, and drops, any request in a time that does not grow with it, or as its logarithm.

    Retracted requests come first, oldest first. Then ``fcfs``: by arrival. ``lpm``: longest cached prefix first, so
    that what is in the cache is used before it is evicted; but a request that was overtaken ``max_overtaken`` times
    goes before all that were not.

    The order is kept, not made: the cache tells whose prefixes have grown, by the node that did; that one has shrunk
    shows when its request's turn comes. Of both a step looks at :data:`MOST_MATCHED` requests at most, the others
    keep their places until a later one.
    """

    def __init__(self, policy: Policy, cache: PrefixCache, *, max_overtaken: int = 256) -> None:
        self._policy = policy
        self._cache = cache
        self._max_overtaken = max_overtaken
        self._admitted = 0
        self._retracted: dict[str, Request] = {}
        self._new: dict[str, Request] = {}
        # Heaps whose entries may be of requests that have gone, or have another place by now.
        self._ranked: list[tuple[int, int, int, Request]] = []  # tokens cached, negative; order; ticket
        self._turns: list[tuple[int, int, Request]] = []  # turn; order
        self._aged: list[tuple[int, Request]] = []  # order

    def add(self, request: Request) -> None:
        """Append a request; one that was retracted goes before all that were not."""
        if request.retractions:
            self._retracted[request.id] = request
            return
        # By arrival alone it would be admitted as number ``turn``: what is by then has overtaken it.
        turn = self._admitted + len(self)
        self._new[request.id] = request
        if self._policy == "lpm":
            heapq.heappush(self._turns, (turn, request.order, request))
            self._follow(request)

    def remove(self, request: Request) -> None:
        """Drop a request that is in the queue."""
        del (self._retracted if request.retractions else self._new)[request.id]
        self._leave(request)
        if len(self._ranked) > 2 * len(self._new) + _SPARE:
            self._ranked = [entry for entry in self._ranked if self._holds(entry)]
            heapq.heapify(self._ranked)
        if len(self._turns) > 2 * len(self._new) + _SPARE:
            self._turns = [entry for entry in self._turns if entry[-1].id in self._new]
            heapq.heapify(self._turns)

    def admitted(self) -> None:
        """One request has been admitted."""
        self._admitted += 1

    def rekey(self, key: Callable[[Request], Hashable]) -> None:
        """Look for what all are to find in the cache by other keys."""
        for request in self:
            before, request.extra_key = request.extra_key, key(request)
            if request.extra_key != before and request.watch is not None:
                self._leave(request)
                self._follow(request)

    def candidates(self) -> Generator[Request, None, None]:
        """Requests in the order of admission. They stay until they are removed, which is done before this is closed."""
        yield from sorted(self._retracted.values(), key=lambda request: request.order)
        if self._policy == "fcfs":
            yield from self._new.values()
            return
        self._grow_old()
        for watch in self._cache.grown(MOST_MATCHED):
            self._follow(watch.owner)
        aged: list[tuple[int, Request]] = []
        ranked: list[tuple[int, int, int, Request]] = []
        try:
            while self._aged:
                aged.append(heapq.heappop(self._aged))
                if aged[-1][-1].id in self._new:
                    yield aged[-1][-1]
            checks = MOST_MATCHED
            while self._ranked:
                entry = heapq.heappop(self._ranked)
                request = entry[-1]
                if not self._holds(entry):
                    continue
                if entry[0] and checks and request.matched != self._cache.version:
                    checks -= 1
                    length = self._cache.match_length(request.matchable(), request.extra_key)
                    if length < -entry[0]:
                        self._rank(request, length)
                        continue
                    request.matched = self._cache.version
                ranked.append(entry)
                yield request
        finally:
            for one in aged:
                if one[-1].id in self._new:
                    heapq.heappush(self._aged, one)
            for other in ranked:
                if self._holds(other):
                    heapq.heappush(self._ranked, other)

    def __len__(self) -> int:
        return len(self._retracted) + len(self._new)

    def __iter__(self) -> Iterator[Request]:
        yield from self._retracted.values()
        yield from self._new.values()

    def _follow(self, request: Request) -> None:
        """Rank ``request`` by what is cached of it, and hear when that is more."""
        request.watch = Watch(request.matchable(), request.extra_key, request)
        self._rank(request, self._cache.watch(request.watch))

    def _rank(self, request: Request, length: int) -> None:
        request.ticket += 1
        request.matched = self._cache.version
        heapq.heappush(self._ranked, (-length, request.order, request.ticket, request))

    def _holds(self, entry: tuple[int, int, int, Request]) -> bool:
        """Whether the request of an entry is waiting, and this is its place."""
        return entry[2] == entry[-1].ticket and entry[-1].id in self._new

    def _leave(self, request: Request) -> None:
        """``request`` is ranked no more."""
        request.ticket += 1
        if request.watch is not None:
            request.watch.leave()
            request.watch = None

    def _grow_old(self) -> None:
        """Put first what was overtaken too often."""
        while self._turns and self._admitted - self._turns[0][0] >= self._max_overtaken:
            _, order, request = heapq.heappop(self._turns)
            if request.id in self._new:
                self._leave(request)
                heapq.heappush(self._aged, (order, request))
