"""What an engine has said of one request, and nobody has read yet."""

from __future__ import annotations

import asyncio
from collections import deque

from zif.contract.errors import ZifError
from zif.messages import EngineOutput

LATE = 8
"""Outputs that wait for a reader which is late."""


class Inbox:
    """A queue of outputs for one reader. What comes while the reader is late by several is joined to one output.

    So a reader that cannot keep up with the engine has less to do for each token, and does not fall further behind.
    """

    __slots__ = ("_failure", "_outputs", "_reader", "number", "request_id")

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id
        self.number = -1
        """What the engine calls the request by, once it has said so."""
        self._outputs: deque[EngineOutput] = deque()
        self._failure: ZifError | None = None
        self._reader: asyncio.Future[None] | None = None

    def put(self, output: EngineOutput) -> None:
        """``output`` has come."""
        self._outputs.append(output)
        self._wake()

    def put_tokens(self, tokens: list[int]) -> None:
        """More tokens have come, of which there is no more to say."""
        if len(self._outputs) >= LATE and _is_plain(self._outputs[-1]):
            self._outputs[-1].token_ids += tokens
        else:
            self._outputs.append(EngineOutput(self.request_id, tokens))
            self._wake()

    def fail(self, error: ZifError) -> None:
        """Nothing comes any more; what has come can still be read."""
        self._failure = error
        self._wake()

    async def get(self) -> EngineOutput:
        """Wait for the next output and take it. Raises what :meth:`fail` was given, once all are read."""
        while not self._outputs:
            if self._failure is not None:
                raise self._failure
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        return self._outputs.popleft()

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)


def _is_plain(output: EngineOutput) -> bool:
    """Whether it says nothing but tokens."""
    first_or_last = output.number >= 0 or output.finish_reason is not None
    return not first_or_last and output.logprobs is None and output.prompt_logprobs is None
