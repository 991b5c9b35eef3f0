"""The order of the waiting queue, and how much room admission keeps for what already runs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from zif.cache.node import Node
from zif.cache.prefix import PrefixCache
from zif.scheduler.request import Request
from zif.scheduler.waiting import Waiting

Policy = Literal["lpm", "fcfs"]


class QueueOrder:
    """In which order waiting requests are offered admission.

    Retracted requests come first, oldest first. Then ``fcfs``: by arrival. ``lpm``: longest prefix match
    first, so that what is in the cache is used before it is evicted; but a request that was overtaken
    ``max_overtaken`` times goes before all that were not, and a queue longer than ``max_matched`` is served
    by arrival, because matching every request costs more than it brings.
    """

    def __init__(self, policy: Policy, cache: PrefixCache, *, max_overtaken: int = 256, max_matched: int = 256) -> None:
        self._policy = policy
        self._cache = cache
        self._max_overtaken = max_overtaken
        self._max_matched = max_matched
        self._admitted = 0

    def joined(self, request: Request, waiting: int) -> None:
        """``request`` has arrived behind ``waiting`` others."""
        request.turn = self._admitted + waiting

    def admitted(self) -> None:
        """One request has been admitted."""
        self._admitted += 1

    def sort(self, waiting: Waiting) -> Iterable[Request]:
        """``waiting`` in the order of admission."""
        if self._policy == "fcfs" or len(waiting) > self._max_matched:
            return waiting
        return sorted(waiting, key=self._key)

    def _key(self, request: Request) -> tuple[bool, bool, int, int]:
        # By arrival alone it would have been admitted as number ``turn``: what came since has overtaken it.
        aged = self._admitted - request.turn >= self._max_overtaken
        cached = 0 if aged or request.retractions else -self._match_length(request)
        return request.retractions == 0, not aged, cached, request.order

    def _match_length(self, request: Request) -> int:
        version, length = request.matched
        if version != self._cache.version:
            length = self._cache.match_length(request.matchable(), request.extra_key)
            request.matched = self._cache.version, length
        return length


class SharedPrefixes:
    """What is being prefilled and not in the cache yet, so that others who need the same can wait for it.

    Two requests that match the cache up to one node, and go on alike for ``span`` tokens, share a prefix that
    is not cached. Prefilling it once and letting the others wait is less work than prefilling it for each.
    """

    MIN_TOKENS = 32

    def __init__(self, unit: int) -> None:
        self._span = -(-self.MIN_TOKENS // unit) * unit
        self._seen: set[tuple[int, bytes]] = set()

    def add(self, request: Request, node: Node, length: int) -> None:
        """``request`` is computing what comes after ``length`` tokens, which end at ``node`` of the cache."""
        if length + self._span <= len(request.tokens):
            self._seen.add(self._key(request, node, length))

    def covers(self, request: Request, node: Node, length: int) -> bool:
        """Whether ``request``, matched up to ``node``, will match more once what is in the making is there."""
        return length + self._span <= len(request.matchable()) and self._key(request, node, length) in self._seen

    def _key(self, request: Request, node: Node, length: int) -> tuple[int, bytes]:
        return node.id, request.tokens[length : length + self._span].tobytes()


class NewTokenRatio:
    """Which part of the tokens that running requests may still ask for admission keeps room for.

    Most requests end before ``max_tokens``, so keeping room for all of it wastes memory; keeping none makes
    retractions common. As in SGLang: begin careful, relax step by step, and after a retraction go back to what
    the running requests have shown.
    """

    FIRST = 0.7
    LEAST_PART = 0.14
    STEPS = 600
    MAX_TOKENS = 4096
    """No request counts for more than this: absurd ``max_tokens`` must not lock others out."""
    AHEAD = 20
    """Steps that should go by after a retraction before the next one."""

    def __init__(self, conservativeness: float = 1.0) -> None:
        self._first = min(self.FIRST * conservativeness, 1.0)
        self._least = self._first * self.LEAST_PART
        self.value = self._first

    def step(self) -> None:
        """A step without retraction has gone by."""
        self.value = max(self._least, self.value - (self._first - self._least) / self.STEPS)

    def reset(self) -> None:
        """Nothing runs any more."""
        self.value = self._first

    def retracted(self, running: Iterable[Request]) -> None:
        """Memory ran out; ``running`` is what goes on."""
        done = wanted = 0
        for request in running:
            done += len(request.output_ids) + self.AHEAD
            wanted += request.rule.max_tokens
        self.value = min(1.0, max(self.value, done / max(wanted, 1)))
