"""Who waits for the prefix cache to have more of a sequence: found by the node that grows, whoever else waits."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterator
from typing import Any

from zif.cache.allocator import IntArray

Place = dict[bytes, "Bucket"]
"""Watches of a position of a node, by the unit of tokens that comes there next."""


class Bucket:
    """Watches that go on alike from one place."""

    __slots__ = ("edge", "members", "place")

    def __init__(self, place: Place, edge: bytes) -> None:
        self.place = place
        self.edge = edge
        self.members: dict[Watch, None] = {}


class Watch:
    """A sequence that is to be told when more of it may be cached; ``owner`` is whoever asks."""

    __slots__ = ("_bucket", "extra_key", "owner", "tokens")

    def __init__(self, tokens: IntArray, extra_key: Hashable, owner: Any) -> None:
        self.tokens = tokens
        self.extra_key = extra_key
        self.owner = owner
        self._bucket: Bucket | None = None

    def stay(self, place: Place, edge: bytes) -> None:
        """Wait at ``place`` for a node that begins with ``edge``."""
        bucket = place.get(edge)
        if bucket is None:
            bucket = place[edge] = Bucket(place, edge)
        bucket.members[self] = None
        self._bucket = bucket

    def leave(self) -> None:
        """Wait no more."""
        bucket = self._bucket
        if bucket is None:
            return
        self._bucket = None
        del bucket.members[self]
        if not bucket.members and bucket.place.get(bucket.edge) is bucket:
            del bucket.place[bucket.edge]


class Grown:
    """Watches that something has happened to, taken over by buckets and handed out one by one."""

    def __init__(self) -> None:
        self._buckets: deque[Bucket] = deque()
        self._places: deque[Place] = deque()

    def add(self, place: Place, edge: bytes) -> None:
        """A node that begins with ``edge`` has come to ``place``."""
        bucket = place.pop(edge, None)
        if bucket is not None:
            self._buckets.append(bucket)

    def add_all(self, place: Place) -> None:
        """``place`` is no more."""
        self._places.append(place)

    def take(self, most: int) -> Iterator[Watch]:
        """Up to ``most`` watches, which wait no more."""
        while most > 0 and (self._buckets or self._places):
            if not self._buckets:
                place = self._places[0]
                if place:
                    self._buckets.append(place.popitem()[1])
                else:
                    self._places.popleft()
                continue
            bucket = self._buckets[0]
            if not bucket.members:
                self._buckets.popleft()
                continue
            watch = next(iter(bucket.members))
            watch.leave()
            most -= 1
            yield watch
