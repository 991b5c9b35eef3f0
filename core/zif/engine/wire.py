"""Commands and news between a client and an engine loop, as small picklable tuples.

Most news is one more token for each of many requests. Those travel as two arrays, which cost the same to make, to
pickle and to read however many they are; everything else travels as :class:`EngineOutput`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from zif.contract import errors
from zif.contract.errors import EngineDead, ZifError
from zif.messages import EngineOutput, EngineRequest
from zif.scheduler.batch import split_runs

Question = Literal["flush_cache", "stats"]


@dataclass(slots=True, frozen=True)
class Add:
    """Continue a sequence."""

    request: EngineRequest


@dataclass(slots=True, frozen=True)
class Abort:
    """End requests; None: all."""

    request_ids: Sequence[str] | None


@dataclass(slots=True, frozen=True)
class Ask:
    """Answer with a :class:`Reply` of the same number."""

    number: int
    question: Question


@dataclass(slots=True, frozen=True)
class Stop:
    """Leave the loop."""


@dataclass(slots=True, frozen=True)
class Reply:
    """The answer to an :class:`Ask`."""

    number: int
    value: Any


@dataclass(slots=True, frozen=True)
class Ready:
    """The engine is built; ``facts`` are what ``stats`` says of it."""

    facts: dict[str, Any]


@dataclass(slots=True, frozen=True)
class Beat:
    """A step has ended that brought no news."""


@dataclass(slots=True, frozen=True)
class Failed:
    """The engine, or a rank of it, cannot go on: one readable line. ``kind`` is the exception's class, "" for none."""

    kind: str
    message: str

    @classmethod
    def of(cls, error: BaseException) -> Failed:
        """Of errors that are not ours the first line: drivers add advice for programmers."""
        said = str(error).strip()
        if not isinstance(error, ZifError):
            said = said.partition("\n")[0]
        return cls(type(error).__name__, " ".join(said.split()) or repr(error))

    def error(self, place: str = "") -> ZifError:
        """The deliberate error that it was, or EngineDead, naming the other kind if there is one; and its ``place``."""
        where = f"{place}: " if place else ""
        deliberate = getattr(errors, self.kind, None) if self.kind else EngineDead
        if deliberate is None or issubclass(deliberate, errors.PluginError):
            return EngineDead(f"{where}{self.kind}: {self.message}")
        error: ZifError = deliberate(f"{where}{self.message}")
        return error


@dataclass(slots=True)
class News:
    """Outputs of a step: what is tokens alone as arrays, whatever the number of requests, and the others whole.

    ``numbers`` int64 [m] are the requests by the number that their first output told. Of each there is a token in
    ``tokens``, or ``counts`` int32 [m] of them, one after the other. No request is there twice.
    """

    numbers: npt.NDArray[np.int64] = field(default_factory=lambda: _NO_NUMBERS)
    tokens: npt.NDArray[np.int32] = field(default_factory=lambda: _NO_TOKENS)
    counts: npt.NDArray[np.int32] | None = None
    others: list[EngineOutput] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.numbers) + len(self.others)

    def plain(self) -> Iterator[tuple[int, list[int]]]:
        """The number and tokens of each request of which there is no more to say."""
        numbers, tokens = self.numbers.tolist(), self.tokens.tolist()
        counts = [1] * len(numbers) if self.counts is None else self.counts.tolist()
        yield from zip(numbers, split_runs(tokens, counts), strict=True)


_NO_NUMBERS: npt.NDArray[np.int64] = np.empty(0, np.int64)
_NO_TOKENS: npt.NDArray[np.int32] = np.empty(0, np.int32)
Command = Add | Abort | Ask | Stop
Message = News | Reply | Ready | Beat | Failed
