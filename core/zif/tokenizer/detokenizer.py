"""Token ids to text, one token at a time, for streaming.

A detokenizer yields the text that its tokens *add* to the prompt: what decoding prompt and output
together gives after what the prompt alone gives. A character whose bytes are spread over several
tokens comes with the last of them; a broken one comes as U+FFFD as soon as it is known to be broken. One that
the end of the tokens cuts off is not broken, but not there: no U+FFFD stands for it.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from zif.tokenizer.pieces import PieceTable

_Utf8Decoder = codecs.getincrementaldecoder("utf-8")

# The longest UTF-8 character has four bytes, so three can be waiting for the last.
_MOST_WAITING_BYTES = 3

# Tokens that a character can be spread over; a window held back longer than this is broken text.
_MOST_WAITING_TOKENS = 8


class Detokenizer(Protocol):
    """Text of a growing sequence of tokens; O(1) amortised a token."""

    def push(self, token_id: int) -> str:
        """Return the text that is certain now and was not before."""
        ...

    def push_all(self, token_ids: Sequence[int]) -> str:
        """Return what :meth:`push` returns for each, together; in one go, where that is the same."""
        ...

    def flush(self) -> str:
        """Return the text that was held back, when no more tokens come; nothing of a character cut in the middle."""
        ...


class ByteDetokenizer:
    """Joins the bytes of tokens; exact where a token's bytes do not depend on its neighbours."""

    __slots__ = ("_decoder", "_hidden", "_pieces", "_strip")

    def __init__(self, pieces: PieceTable, prompt_ids: Sequence[int], hidden: Collection[int]) -> None:
        self._pieces = pieces
        self._hidden = hidden
        self._decoder = _Utf8Decoder("replace")
        self._strip = 0
        if pieces.strip_leading and not any(pieces[i] for i in prompt_ids if i not in hidden):
            self._strip = pieces.strip_leading
        self._decoder.decode(_incomplete_tail(pieces, prompt_ids, hidden))

    def push(self, token_id: int) -> str:
        """Return the text that ``token_id`` completes."""
        if token_id in self._hidden:
            return ""
        piece = self._pieces[token_id]
        if self._strip and piece:
            while self._strip and piece.startswith(b" "):
                piece = piece[1:]
                self._strip -= 1
            self._strip = 0
        return self._decoder.decode(piece)

    def push_all(self, token_ids: Sequence[int]) -> str:
        """Return the text that ``token_ids`` complete."""
        if self._strip or len(token_ids) == 1:
            return "".join(map(self.push, token_ids))
        pieces, hidden = self._pieces, self._hidden
        return self._decoder.decode(b"".join([pieces[i] for i in token_ids if i not in hidden]))

    def flush(self) -> str:
        """Return nothing: only a character's first bytes are ever held back."""
        self._decoder.reset()
        return ""


def _incomplete_tail(pieces: PieceTable, prompt_ids: Sequence[int], hidden: Collection[int]) -> bytes:
    """Return the first bytes of a character that the prompt begins and the output is to end."""
    tail = b""
    for token_id in reversed(prompt_ids):
        if token_id in hidden:
            continue
        tail = pieces[token_id] + tail
        if len(tail) >= _MOST_WAITING_BYTES:
            break
    tail = tail[-_MOST_WAITING_BYTES:]
    for start in range(len(tail)):
        if tail[start] >= 0xC0:  # a lead byte
            decoder = _Utf8Decoder("strict")
            try:
                waiting = decoder.decode(tail[start:]) == ""
            except UnicodeDecodeError:
                waiting = False
            if waiting:
                return tail[start:]
    return b""


class WindowDetokenizer:
    """For decoders that look at neighbours: decodes a short window twice and takes the difference.

    The window method of Hugging Face's text-generation-inference: the text of ``ids[begin:end]``
    has been given out, the window ``ids[begin:]`` is decoded again with each token.
    """

    def __init__(
        self, decode: Callable[[Sequence[int]], str], prompt_ids: Sequence[int], hidden: Collection[int]
    ) -> None:
        self._decode = decode
        self._hidden = hidden
        self._window = [i for i in prompt_ids[-_MOST_WAITING_TOKENS:] if i not in hidden]
        self._given = len(self._window)

    def push(self, token_id: int) -> str:
        """Return the text that ``token_id`` completes."""
        if token_id in self._hidden:
            return ""
        self._window.append(token_id)
        before = self._decode(self._window[: self._given])
        after = self._decode(self._window)
        waiting = len(self._window) - self._given
        if after.endswith("\ufffd") and waiting < _MOST_WAITING_TOKENS:
            return ""
        self._window = self._window[self._given :]
        self._given = len(self._window)
        return after[len(before) :]

    def push_all(self, token_ids: Sequence[int]) -> str:
        """Return the text that ``token_ids`` complete. One by one: what a window holds back goes by its tokens."""
        return "".join(map(self.push, token_ids))

    def flush(self) -> str:
        """Return what was held back, less what is not whole."""
        before = self._decode(self._window[: self._given])
        after = self._decode(self._window)
        self._given = len(self._window)
        return after[len(before) :].rstrip("\ufffd")
