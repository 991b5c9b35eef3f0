"""Commands and news between a client and an engine loop, as small picklable tuples.

Most news is one more token for each of many requests. Those travel as two flat lists, which cost a
tenth of what objects do to pickle; everything else travels as :class:`EngineOutput`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from zif.contract import errors
from zif.contract.errors import EngineDead, ZifError
from zif.messages import EngineOutput, EngineRequest

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
    """Outputs of a step: plain tokens as two lists, the others whole."""

    ids: list[str] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    others: list[EngineOutput] = field(default_factory=list)

    @classmethod
    def of(cls, outputs: Sequence[EngineOutput]) -> News:
        """Sort outputs; a request's own order is kept, as it has at most one output a step."""
        news = cls()
        for output in outputs:
            plain = output.logprobs is None and output.prompt_logprobs is None and output.finish_reason is None
            if plain and len(output.token_ids) == 1 and not output.cached_tokens:
                news.ids.append(output.request_id)
                news.tokens.append(output.token_ids[0])
            else:
                news.others.append(output)
        return news

    def __iter__(self) -> Iterator[EngineOutput]:
        for request_id, token in zip(self.ids, self.tokens, strict=True):
            yield EngineOutput(request_id, [token])
        yield from self.others


Command = Add | Abort | Ask | Stop
Message = News | Reply | Ready | Beat | Failed
