"""When the next step is launched: no sooner than it has to be.

With overlap a step is queued behind the one that runs, so that the device never waits for the host. One that is queued
as soon as that begins leaves out whoever asks in the meantime: they wait for one and a half steps where half a step
would do. How long a decode step takes is known from those before it: launched shortly before that ends, the next one
takes along what has come by then.
"""

from __future__ import annotations

from collections import deque

RECENT = 4
"""Steps that the next is judged by."""
SPARE = 0.5e-3
"""Seconds by which a launch is earlier than it would have to be: for what wakes up late, and steps that are shorter."""
NOTICED = 50e-6
"""Seconds that a host which waits takes at the least."""
WORTH = 0.5e-3
"""Seconds that are worth waiting for."""


class Pace:
    """How long the launch that comes next can wait. Times are of one clock, in seconds."""

    def __init__(self) -> None:
        self._steps: deque[float] = deque(maxlen=RECENT)
        self._launches: deque[float] = deque(maxlen=RECENT)
        self._begun = 0.0
        self._known = False

    def launched(self, at: float, took: float, *, decode: bool, behind: bool) -> None:
        """A step was launched, which ``took`` the host so long. ``behind``: another was running ``at`` that time."""
        self._launches.append(took)
        self._known = decode
        if not behind:
            self._begun = at

    def ended(self, at: float, waited: float, *, decode: bool) -> float:
        """The results of a step are there, for which the host ``waited``; what was launched behind it runs from now on.

        Returns the seconds that the step took. One that nobody had to wait for ended before, at a time that is not
        known: the launch behind it was late. Steps are then measured anew, launched at once, so that what one launch
        was late is not taken for the length of a step by the next.
        """
        took = at - self._begun
        if waited < NOTICED:
            self._steps.clear()
        elif decode:
            self._steps.append(took)
        self._begun = at
        return took

    def slack(self, now: float) -> float:
        """Seconds for which the next launch can wait while what was launched last runs; 0 where that is not known."""
        if not (self._known and len(self._steps) == RECENT):
            return 0.0
        end = self._begun + min(self._steps)
        slack = end - 2 * max(self._launches) - SPARE - now
        return slack if slack >= WORTH else 0.0
