"""What has been served, counted as clients count it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from zif.frontend.output import Delta


class Books:
    """Totals over all requests; each agrees with the sum of what ``usage`` says to clients.

    An engine counts otherwise: a prompt once for each choice of it, and the tokens that it makes before it hears that a
    stop string ended their text or that nobody listens any more.
    """

    def __init__(self) -> None:
        self._prompt_tokens = 0
        self._cached_tokens = 0
        self._generation_tokens = 0
        self._finished: Counter[str] = Counter()

    def totals(self) -> dict[str, Any]:
        """Return the totals by the names that statistics have.

        ``prompt_tokens_total`` (a prompt once, however many choices it has), ``cached_tokens_total`` of these,
        ``generation_tokens_total``, and ``choices_finished`` by reason.
        """
        return {
            "prompt_tokens_total": self._prompt_tokens,
            "cached_tokens_total": self._cached_tokens,
            "generation_tokens_total": self._generation_tokens,
            "choices_finished": dict(self._finished),
        }

    async def kept(
        self, prompts: Sequence[int], choices: int, deltas: AsyncGenerator[Delta, None]
    ) -> AsyncGenerator[Delta, None]:
        """Pass the ``deltas`` of a request on, which has ``prompts`` of these lengths and so many ``choices``.

        Every choice is counted as finished: with ``abort`` where the reader leaves first, ``error`` where the stream
        fails.
        """
        uncounted = dict(enumerate(prompts))
        cached = dict.fromkeys(uncounted, 0)
        unfinished = choices
        ending = "abort"
        try:
            async with aclosing(deltas):
                async for delta in deltas:
                    self._prompt_tokens += uncounted.pop(delta.prompt_index, 0)
                    more = max(delta.cached_tokens - cached[delta.prompt_index], 0)
                    cached[delta.prompt_index] += more
                    self._cached_tokens += more
                    self._generation_tokens += len(delta.token_ids)
                    if delta.finish_reason is not None:
                        self._finished[delta.finish_reason] += 1
                        unfinished -= 1
                    yield delta
        except (GeneratorExit, asyncio.CancelledError):
            raise
        except BaseException:
            ending = "error"
            raise
        finally:
            if unfinished:
                self._finished[ending] += unfinished
