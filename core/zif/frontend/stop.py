"""Stop strings in a stream of text."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """The stop strings of a request, made ready for matching.

    Knuth, Morris, Pratt (1977): ``failure[i]`` is the length of the longest proper prefix of a string that
    is also a suffix of its first ``i + 1`` characters, so text is read once, however it is cut into pieces.
    """

    def __init__(self, strings: Sequence[str]) -> None:
        self.strings = tuple(strings)
        self.failures = tuple(_failure(string) for string in self.strings)


def _failure(string: str) -> list[int]:
    failure = [0] * len(string)
    length = 0
    for position in range(1, len(string)):
        while length and string[position] != string[length]:
            length = failure[length - 1]
        if string[position] == string[length]:
            length += 1
        failure[position] = length
    return failure


class StopMatcher:
    """Looks for stop strings in one choice's text, and holds back what may be the beginning of one.

    The string that is complete first ends the text; of two that end at the same place, the longer.
    """

    def __init__(self, stop: StopStrings, *, include: bool = False) -> None:
        self._stop = stop
        self._include = include
        self._matched = [0] * len(stop.strings)
        self._held = ""

    def push(self, text: str) -> tuple[str, str | None]:
        """Return the text that can be given out, and the stop string that ended it, if one did."""
        window = self._held + text
        for position, character in enumerate(text, start=len(self._held) + 1):
            found = ""
            for which, string in enumerate(self._stop.strings):
                length = self._matched[which]
                while length and string[length] != character:
                    length = self._stop.failures[which][length - 1]
                if string[length] == character:
                    length += 1
                if length == len(string):
                    found = max(found, string, key=len)
                    length = 0  # never read again: the text ends here
                self._matched[which] = length
            if found:
                self._held = ""
                return window[: position if self._include else position - len(found)], found
        kept = len(window) - max(self._matched)
        self._held = window[kept:]
        return window[:kept], None

    def flush(self) -> str:
        """Return the text held back, when no more will come."""
        held, self._held = self._held, ""
        return held
