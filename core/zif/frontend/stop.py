"""Stop strings in a stream of text."""

from __future__ import annotations

from collections.abc import Sequence


class StopMatcher:
    """Looks for stop strings in one choice's text, and holds back what may be the beginning of one.

    Text can be hidden: it is looked at like any other, but never given out, so that a stop string can be, or
    contain, a special token that the client does not see. The string that is complete first ends the text; of two
    that end at the same place, the longer.

    Of each string only the first place is kept at which it may begin, and that place only moves forward: the work is
    a few searches a piece of text, whatever the strings are.
    """

    def __init__(self, strings: Sequence[str], *, include: bool = False) -> None:
        """``include``: the stop string is part of the text that it ends."""
        self._strings = tuple(strings)
        self._include = include
        self._window = ""
        self._starts = [0] * len(self._strings)
        self._hidden: list[tuple[int, int]] = []
        self._floor = 0

    def push(self, text: str, *, hidden: bool = False, may_end: bool = True) -> tuple[str, str | None]:
        """Return the text that can be given out, and the stop string that ended it, if one did.

        A string that is complete before any text with ``may_end`` does not count (``min_tokens``).
        """
        if not text:
            return "", None
        begin = len(self._window)
        self._window += text
        end = len(self._window)
        if hidden:
            self._hidden.append((begin, end))
        if not may_end:
            self._floor = end
        found: tuple[int, int] | None = None  # where it ends, less its length
        for which, string in enumerate(self._strings):
            start = self._starts[which] = self._seek(string, self._starts[which])
            if start + len(string) <= end:
                found = min(found or (end + 1, 0), (start + len(string), -len(string)))
        if found is not None:
            last, length = found[0], -found[1]
            stop = self._window[last - length : last]
            text = self._give(last if self._include else last - length)
            self._window = ""  # the text ends here
            return text, stop
        return self._give(min(self._starts, default=end)), None

    def flush(self) -> str:
        """Return the text held back, when no more will come."""
        return self._give(len(self._window))

    def _seek(self, string: str, start: int) -> int:
        """Return the first place from ``start`` on where ``string`` stands, or the window's end may begin it."""
        window, floor = self._window, self._floor
        while (start := window.find(string[0], start)) >= 0:
            rest = len(window) - start
            if rest < len(string):
                if string.startswith(window[start:]):
                    return start
            elif start + len(string) > floor and window.startswith(string, start):
                return start
            start += 1
        return len(window)

    def _give(self, count: int) -> str:
        """Take ``count`` characters out of the window; return those of them that are not hidden."""
        pieces: list[str] = []
        at = 0
        for begin, end in self._hidden:
            pieces.append(self._window[at : min(begin, count)])
            at = max(at, min(end, count))
        pieces.append(self._window[at:count])
        self._window = self._window[count:]
        self._starts = [max(start - count, 0) for start in self._starts]
        self._hidden = [(max(begin - count, 0), end - count) for begin, end in self._hidden if end > count]
        self._floor = max(self._floor - count, 0)
        return "".join(pieces)
