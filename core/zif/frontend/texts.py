"""Texts to ids and back, while others are served.

The ``tokenizers`` library holds Python's lock for all of one ``encode``, a second a megabyte, but lets go of it in what
takes a batch. So all but short texts go through that, in threads, and many texts in pieces.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from zif.contract.errors import ContextLengthExceeded, InvalidRequest
from zif.tokenizer import Tokenizer

T = TypeVar("T")

SHORT = 2048
"""Characters, or ids, that take about a millisecond: less than it would take to wait for a thread on a busy machine."""
PIECE = 65_536
"""Characters of many texts that a thread tokenizes at a time."""
GENEROUS = 8
"""Characters a token, on an average over a whole context, that no text of people's has."""
THREADS = 2


class Texts:
    """Encodes and decodes with ``tokenizer``."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="zif-text")

    async def encode(self, texts: Sequence[str], context_length: int, *, add_special_tokens: bool) -> list[list[int]]:
        """Return the ids of each text.

        Raises :class:`ContextLengthExceeded` for a text that is certain not to fit ``context_length`` tokens, before
        it is tokenized: one longer than the longest tokens are together, or whose first part has too many.
        """
        for text in texts:
            self._check_length(text, context_length)
        encoded: list[list[int]] = []
        for piece in _pieces(texts):
            size = sum(map(len, piece))
            if size <= SHORT:
                encoded += [self._tokenizer.encode(text, add_special_tokens=add_special_tokens) for text in piece]
                if len(texts) > len(piece):
                    await asyncio.sleep(0)
                continue
            if size > GENEROUS * context_length and len(piece) == 1:
                await self._check_beginning(piece[0], context_length)
            encoded += await self.work(
                partial(self._tokenizer.encode_batch, piece, add_special_tokens=add_special_tokens)
            )
        return encoded

    async def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Return the text of ``ids`` taken as a whole."""
        if len(ids) <= SHORT:
            return self._tokenizer.decode(ids, skip_special_tokens=skip_special_tokens)
        return await self.work(partial(self._tokenizer.decode, ids, skip_special_tokens=skip_special_tokens))

    async def each(self, function: Callable[[int], T], ids: Sequence[int]) -> list[T]:
        """Return ``function`` of each id, and let others run now and then."""
        results = list(map(function, ids[:SHORT]))
        for start in range(SHORT, len(ids), SHORT):
            await asyncio.sleep(0)
            results += map(function, ids[start : start + SHORT])
        return results

    async def work(self, task: Callable[[], T]) -> T:
        """Run ``task`` in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, task)

    def check_count(self, ids: Sequence[Any], context_length: int) -> None:
        """Raise :class:`InvalidRequest` for more ids than any text that is tokenized here has."""
        most = GENEROUS * context_length
        if len(ids) > most:
            raise InvalidRequest(f"{len(ids)} token ids at once; at most {most} are taken", "tokens")

    def _check_length(self, text: str, context_length: int) -> None:
        most = context_length * self._tokenizer.longest_token
        if len(text) > most:
            raise ContextLengthExceeded(
                f"this model's maximum context length is {context_length} tokens, which are {most} characters at the "
                f"most, but the prompt has {len(text)}",
                "prompt",
            )

    async def _check_beginning(self, text: str, context_length: int) -> None:
        """Tokenize as much of ``text`` as would overfill the context, were it like other texts.

        The cut changes a token or two at its own place.
        """
        beginning = text[: GENEROUS * context_length]
        count = await self.work(partial(self._tokenizer.count, beginning))
        if count > context_length + 64:
            raise ContextLengthExceeded(
                f"this model's maximum context length is {context_length} tokens, but the first {len(beginning)} "
                f"characters of the prompt, which has {len(text)}, have {count}",
                "prompt",
            )


def _pieces(texts: Sequence[str]) -> list[list[str]]:
    """Return ``texts`` in groups of at most ``PIECE`` characters, or of one text."""
    pieces: list[list[str]] = []
    room = 0
    for text in texts:
        if not pieces or len(text) > room:
            pieces.append([])
            room = PIECE
        pieces[-1].append(text)
        room -= len(text)
    return pieces
