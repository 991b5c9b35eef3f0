"""Prefixes in the making, and how much room admission keeps for what already runs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from zif.cache.node import Node
from zif.scheduler.request import Request

Policy = Literal["lpm", "fcfs"]


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
