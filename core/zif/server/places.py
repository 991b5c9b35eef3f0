"""How many sequences may be in the server, and how many of them one client may have."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from zif.contract.errors import InvalidRequest, Overloaded


class Places:
    """Counts the sequences that run or wait, those of each client apart.

    A client may have as many as are free beside them (dynamic thresholds; Choudhury and Hahne 1998). So one client
    alone gets half of the places, two get a third each, and whoever comes next always finds some.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._taken = 0
        self._of: dict[str, int] = {}

    @contextmanager
    def taken(self, client: str, count: int) -> Iterator[None]:
        """Hold ``count`` places for ``client``. Raises as :meth:`check` does."""
        self.check(client, count)
        self._taken += count
        self._of[client] = self._of.get(client, 0) + count
        try:
            yield
        finally:
            self._taken -= count
            self._of[client] -= count
            if not self._of[client]:
                del self._of[client]

    def check(self, client: str, count: int) -> None:
        """Raise Overloaded if ``count`` places are not there now, InvalidRequest if they never are."""
        share = max(self.limit // 2, 1)
        if count > share:
            raise InvalidRequest(f"{count} completions in one request: at most {share} can wait here", "n")
        held = self._of.get(client, 0)
        free = self.limit - self._taken
        if self._taken and held + count > free - count:
            raise Overloaded(
                f"{self._taken} of {self.limit} sequences are running or waiting, {held} of them yours, and none may "
                "have more than are free: try again later"
            )
