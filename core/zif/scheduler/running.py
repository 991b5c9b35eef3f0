"""Requests that have a row of the request table, and what a step asks of each: arrays of N entries, one per row.

A step touches each running request. Where that is one operation on arrays, it costs a few microseconds for thousands.
"""

from __future__ import annotations

from itertools import compress
from typing import Any

import numpy as np
import numpy.typing as npt

from zif.cache.allocator import IntArray
from zif.sampling.params import SCORED
from zif.scheduler.request import Request, Status

BoolArray = npt.NDArray[np.bool_]
TAIL = 64
"""Tokens of a row that wait in an array before they are moved to their request's list."""


class Running:
    """Requests from admission to their end or retraction.

    ``prefilling``  those whose prompts are not launched in whole, by id, in the order of admission.
    ``alive``       [N] bool: the row is a running request's.
    ``number``      [N] its order of arrival.
    ``made``        [N] tokens sampled and committed.
    ``most``        [N] tokens that it may have.
    ``known``       [N] tokens that its prefill computes.
    ``needs``       [N] what its sampler has to do.
    ``drafts``      [N] tokens that each of its decodes brings to be verified.
    ``masked``      [N] bool: its tokens wait for masks.
    ``quiet``       [N] bool: of a step that does not end it there is nothing to say but its tokens.
    """

    def __init__(self, max_requests: int, most_drafts: int = 0) -> None:
        rows = max_requests + 1
        self.prefilling: dict[str, Request] = {}
        self.alive = np.zeros(rows, np.bool_)
        self.number = np.zeros(rows, np.int64)
        self.made = np.zeros(rows, np.int64)
        self.most = np.zeros(rows, np.int64)
        self.known = np.zeros(rows, np.int32)
        self.needs = np.zeros(rows, np.int64)
        self.drafts = np.zeros(rows, np.int32)
        self.masked = np.zeros(rows, np.bool_)
        self.quiet = np.zeros(rows, np.bool_)
        self._tail = np.zeros((rows, max(TAIL, most_drafts + 1)), np.int32)
        self._fill = np.zeros(rows, np.int32)
        self._by_row: list[Request | None] = [None] * rows
        self._decoding: list[Request] = []
        self._decode_rows: IntArray = np.empty(0, np.int32)
        self._begun: list[Request] = []  # decode from now on, and are not in the two above yet
        self._gone = 0  # of the two above, those that run no more
        self._ends: dict[int, int] = {}
        self._sorted_ends: npt.NDArray[np.int64] | None = None

    def __len__(self) -> int:
        """How many run."""
        return len(self.prefilling) + self.num_decoding

    @property
    def num_decoding(self) -> int:
        """Requests whose prompts are launched in whole."""
        return len(self._decoding) + len(self._begun) - self._gone

    def decoding(self) -> tuple[list[Request], IntArray]:
        """Requests whose prompts are launched in whole, by when they were, and their rows. Not to be changed."""
        self._sweep()
        if self._begun:
            self._decoding += self._begun
            rows = np.array([request.row for request in self._begun], np.int32)
            self._decode_rows = np.concatenate([self._decode_rows, rows])
            self._begun = []
        return self._decoding, self._decode_rows

    def rows(self) -> IntArray:
        """Rows of all that run."""
        rows = self.decoding()[1]
        if not self.prefilling:
            return rows
        return np.concatenate([np.array([r.row for r in self.prefilling.values()], np.int32), rows])

    def youngest(self) -> Request:
        """The one that arrived last."""
        return max([*self.prefilling.values(), *self.decoding()[0]], key=lambda request: request.order)

    # -- a request's way -----------------------------------------------------------------------------------

    def enter(self, request: Request) -> None:
        """``request`` was given a row; its prompt is to be computed."""
        row = request.row
        made = len(request.output_ids)
        self.prefilling[request.id] = request
        self.alive[row] = True
        self.number[row] = request.order
        self.made[row] = made
        self.most[row] = request.rule.max_tokens
        self.known[row] = len(request.tokens)
        self.needs[row] = request.params.needs
        self.drafts[row] = request.drafts
        self.masked[row] = request.masks is not None
        self.quiet[row] = made > 0 and not request.params.needs & SCORED
        self._fill[row] = 0
        self._by_row[row] = request
        request.tail = self
        for token in request.rule.ends:
            count = self._ends.get(token, 0)
            self._ends[token] = count + 1
            if not count:
                self._sorted_ends = None

    def decode(self, request: Request) -> None:
        """The end of its prompt is launched."""
        del self.prefilling[request.id]
        request.status = Status.DECODING
        self._begun.append(request)

    def leave(self, request: Request) -> None:
        """``request`` is about to lose its row."""
        row = request.row
        self.pull(request)
        request.tail = None
        self.alive[row] = False
        self._by_row[row] = None
        if self.prefilling.pop(request.id, None) is None:
            if request in self._begun:
                self._begun.remove(request)
            else:
                self._gone += 1
        for token in request.rule.ends:
            self._ends[token] -= 1
            if not self._ends[token]:
                del self._ends[token]
                self._sorted_ends = None

    def _sweep(self) -> None:
        """Drop what runs no more, all at once. Before any of its rows is another request's."""
        if self._gone:
            alive = self.alive[self._decode_rows]
            self._decoding = list(compress(self._decoding, alive.tolist()))
            self._decode_rows = self._decode_rows[alive]
            self._gone = 0

    # -- its tokens ----------------------------------------------------------------------------------------

    def may_end(self, tokens: npt.NDArray[np.integer[Any]]) -> BoolArray:
        """Which of ``tokens`` [n] end some request that runs."""
        if not self._ends:
            return np.zeros(len(tokens), np.bool_)
        if self._sorted_ends is None:
            self._sorted_ends = np.array(sorted(self._ends), np.int64)
        at = self._sorted_ends.searchsorted(tokens)
        return np.equal(self._sorted_ends.take(at, mode="clip"), tokens)

    def append(self, rows: IntArray, tokens: IntArray, counts: IntArray | None = None) -> None:
        """One more token for each of ``rows``, or ``counts`` each, one after the other."""
        room = self._tail.shape[1]
        fill = self._fill[rows]
        for row in rows[fill + (1 if counts is None else counts) > room].tolist():
            request = self._by_row[row]
            assert request is not None
            self.pull(request)
        if counts is None:
            self._tail[rows, self._fill[rows]] = tokens
            self._fill[rows] += 1
            self.made[rows] += 1
            return
        within = np.arange(len(tokens)) - np.repeat(np.cumsum(counts) - counts, counts)
        self._tail[np.repeat(rows, counts), np.repeat(self._fill[rows], counts) + within] = tokens
        self._fill[rows] += counts
        self.made[rows] += counts

    def pull(self, request: Request) -> None:
        """Move what waits in the array to the request's own list."""
        row = request.row
        fill = int(self._fill[row])
        if fill:
            self._fill[row] = 0
            request.extend_output(self._tail[row, :fill].tolist())
