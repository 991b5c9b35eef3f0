"""Continuous batching with chunked prefill, a prefix cache, retraction and overlap, in host integers."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from itertools import compress
from typing import Any

import numpy as np
import numpy.typing as npt

from zif.cache.allocator import IntArray
from zif.cache.groups import HostGroup
from zif.contract.errors import InvalidRequest, Overloaded
from zif.messages import FinishReason
from zif.scheduler.batch import (
    Batch,
    Chunk,
    Committed,
    Decodes,
    Update,
    build_batch,
    join_changes,
)
from zif.scheduler.committing import take
from zif.scheduler.config import SchedulerConfig
from zif.scheduler.distrust import Distrusted
from zif.scheduler.memory import Memory, PageChanges
from zif.scheduler.policy import NewTokenRatio
from zif.scheduler.prefilling import Prefilling
from zif.scheduler.request import Request, Status
from zif.scheduler.running import Running
from zif.scheduler.waiting import Waiting

_NO_INDICES = np.empty(0, np.intp)


class Scheduler:
    """Decides, step by step, which request computes what.

    The engine's loop, overlapped::

        batch = scheduler.schedule()            # step N+1, while the device runs step N
        if batch is not None:
            launch(batch)
        if in_flight:                           # step N
            for update in scheduler.commit(*in_flight.popleft()): ...

    ``schedule`` returns None when nothing can be launched now: if a step is in flight, commit it and ask again;
    otherwise ``has_work`` is False. Memory that runs out is one such case: the step in flight may end requests,
    and only once it is committed are requests retracted.

    Not thread-safe: one thread calls everything.
    """

    def __init__(self, config: SchedulerConfig, groups: Sequence[HostGroup], num_pages: Sequence[int]) -> None:
        """``num_pages`` of each group count page 0, which is never used."""
        self.config = config
        self.memory = Memory(
            groups,
            num_pages,
            config.max_running_requests,
            config.context_length,
            radix=config.radix_cache,
        )
        self.max_length = self.memory.max_length
        """Tokens a sequence can have: the context length, or what the cache holds where that is less."""
        self.max_step_tokens = config.chunked_prefill_size + config.max_running_requests * (1 + config.drafts)
        """No step has more tokens."""
        self._requests: dict[str, Request] = {}
        self._waiting = Waiting(config.policy, self.memory.cache)
        self._running = Running(config.max_running_requests, config.drafts)
        self._in_flight: deque[Batch] = deque()
        self._drawing = 0  # draws that were launched and are not committed
        self._masked = 0  # requests whose tokens wait for masks
        self._ratio = NewTokenRatio(config.conservativeness)
        self._prefilling = Prefilling(
            config, self.memory, self._waiting, self._running, self._ratio, self.max_step_tokens
        )
        self._step = 0
        self._arrivals = 0
        self._generation_tokens = 0
        self._retractions = 0
        self._faults = 0
        self._distrusted = Distrusted(self.memory.unit)

    # -- requests ------------------------------------------------------------------------------------------

    def add(self, request: Request) -> None:
        """Queue a new request.

        Raises InvalidRequest (ContextLengthExceeded if it can never fit) or Overloaded; it is not queued then.
        """
        if request.id in self._requests:
            raise InvalidRequest(f"a request with the id {request.id!r} is already there", "request_id")
        if not len(request.prompt):
            raise InvalidRequest("the prompt is empty: at least one token is needed", "prompt")
        what = "the model's context" if self.max_length == self.config.context_length else "what fits the KV cache"
        request.fit(self.max_length, what)
        held_back = len(self._waiting) - self.memory.row_allocator.num_free  # the others wait for the next step alone
        if self.config.max_queued is not None and held_back >= self.config.max_queued:
            raise Overloaded(f"{len(self._waiting)} requests are waiting, which is the limit: try again later")
        request.order = self._arrivals
        single = request.params.adjusted or request.masks is not None  # what may come goes by the token before
        request.drafts = 0 if single else self.config.drafts
        self._arrivals += 1
        request.extra_key = self._distrusted.key(request)
        self._requests[request.id] = request
        self._masked += request.masks is not None
        self._waiting.add(request)
        self._prefilling.try_again()

    def abort(self, request_id: str) -> Update | None:
        """End a request, wherever it is. None if there is no such request (any more)."""
        request = self._requests.get(request_id)
        if request is None:
            return None
        self._finish([request], "abort")
        return Update(request, [], -1, "abort", first=not request.output_ids)

    def request_ids(self) -> list[str]:
        """Ids of all requests that have not ended."""
        return list(self._requests)

    @property
    def has_work(self) -> bool:
        """Whether there is anything to schedule or commit."""
        return bool(self._requests or self._in_flight or self._drawing)

    @property
    def only_decodes(self) -> bool:
        """Whether no prompt is waiting, in whole or in part."""
        return not (self._waiting or self._running.prefilling)

    def flush_cache(self) -> bool:
        """Forget all cached prefixes. False, and nothing is done, while there is work."""
        if self.has_work:
            return False
        self.memory.cache.flush()
        return True

    def stats(self) -> dict[str, Any]:
        """Counters and gauges; pages are summed over the cache groups."""
        memory = self.memory
        return {
            "num_running": len(self._running),
            "num_waiting": len(self._waiting),
            "pages_total": sum(a.capacity for a in memory.allocators),
            "pages_free": sum(a.num_free for a in memory.allocators),
            "pages_cached": sum(memory.cache.total),
            "tokens_cached": memory.cache.num_tokens,
            "cached_tokens_total": self._prefilling.cached_tokens,
            "prompt_tokens_total": self._prefilling.prompt_tokens,
            "generation_tokens_total": self._generation_tokens,
            "requests_total": self._arrivals,
            "retractions_total": self._retractions,
            "faults_total": self._faults,
            "steps_total": self._step,
        }

    # -- a step --------------------------------------------------------------------------------------------

    def schedule(self) -> Batch | None:
        """The next step, to be launched before anything else is; None if nothing can be launched now."""
        depth = 1 if self.config.overlap else 0
        assert len(self._in_flight) <= depth, f"{len(self._in_flight)} steps are in flight; commit before scheduling"
        memory, step = self.memory, self._step
        if memory.windows and self._running:
            memory.drop_windows(self._running.rows(), step)
        decodes = self._make_room_for_decodes()
        if decodes is None:
            return None
        exact = not memory.drafts.any() if self.config.drafts else True
        changes = self._extended(decodes) if decodes.requests else []
        chunks, new = self._prefilling.chunks(self._step, changes)
        if decodes.requests or chunks:
            return self._launch(decodes, chunks, new, changes, exact)
        if self._in_flight or self._drawing or memory.undrawn.any() or not self._requests:
            return None
        # Several half-done prefills can hold all pages between them: the youngest makes way.
        assert len(self._running.prefilling) > 1, "nothing runs, nothing is in flight, and nothing can be admitted"
        self._retract_youngest()
        return self.schedule()

    def _make_room_for_decodes(self) -> Decodes | None:
        """The decodes of this step, with pages reserved for those that begin a page; without drafts, if need be.

        Retracts requests if need be; None if that has to wait for the step in flight.
        """
        memory, running, ahead = self.memory, self._running, 0
        while True:
            decodes, rows = running.decoding()
            starts = memory.kv[rows]
            active = starts < memory.final[rows]
            if self._masked:
                active &= ~memory.undrawn[rows]
            if not active.all():
                decodes, rows, starts = list(compress(decodes, active.tolist())), rows[active], starts[active]
            needs = int(np.bitwise_or.reduce(running.needs[rows]))
            masked = bool(self._masked) and bool(running.masked[rows].any())
            spare = ahead if len(running) > 1 else 0
            if self.config.drafts and len(starts):
                counts = 1 + np.minimum(running.drafts[rows], memory.final[rows] - starts - 1)
                if memory.reserve_runs(starts, counts, spare):
                    return Decodes(decodes, rows, starts, needs, _NO_INDICES, counts, masked)
            fresh = np.flatnonzero(starts % memory.page_size == 0)
            if memory.reserve_decodes(starts, fresh, spare):
                return Decodes(decodes, rows, starts, needs, fresh, None, masked)
            if self._in_flight or self._drawing:
                return None
            assert len(running) > 1, "one request alone must fit: add() refuses those that do not"
            self._retract_youngest()
            # Once something had to go, make room for a while: a retraction a step would starve everybody.
            ahead = running.num_decoding * NewTokenRatio.AHEAD

    def _extended(self, decodes: Decodes) -> list[PageChanges]:
        if decodes.counts is not None:
            return [self.memory.extend_runs(decodes.rows, decodes.starts, decodes.counts)]
        return [self.memory.extend_decodes(decodes.rows, decodes.starts, decodes.fresh)]

    def _launch(
        self, decodes: Decodes, chunks: list[Chunk], new: list[Request], changes: list[PageChanges], exact: bool
    ) -> Batch:
        changes += self.memory.replaced()
        joined = join_changes(changes, len(self.memory.groups))
        batch = build_batch(self._step, decodes, chunks, new, joined, exact=exact)
        self.memory.last[batch.rows] = batch.step
        if batch.waits is not None:
            self.memory.undrawn[batch.rows[batch.waits]] = True
        self._in_flight.append(batch)
        self._step += 1
        self._ratio.step()
        for chunk in chunks:
            self.memory.share(chunk.request, batch.step)
            if chunk.last:
                chunk.request.scored = True
                self._running.decode(chunk.request)
        return batch

    # -- results -------------------------------------------------------------------------------------------

    def commit(
        self,
        batch: Batch,
        sampled: Sequence[int] | npt.NDArray[np.integer[Any]],
        faulty: Iterable[Request] = (),
        counts: Sequence[int] | npt.NDArray[np.integer[Any]] | None = None,
    ) -> Committed:
        """Step ``batch`` has completed; ``sampled[i]`` is the token drawn for ``batch.sampling[i]``.

        With ``counts``, which a batch of drafts needs, there are ``counts[i]`` tokens for it, one after the other.
        Tokens behind a request's end, or of requests that have ended meanwhile (a stop token found late, an abort), are
        dropped. A request whose last token is -1 ends with "error", and so does one that is among ``faulty``: logits of
        its prompt are not sound.
        """
        assert self._in_flight, "no step is in flight"
        assert self._in_flight[0] is batch, "steps are committed in the order they were made"
        assert (counts is None) == (batch.drafts == 0), "drafts were verified if there were any"
        self._in_flight.popleft()
        self.memory.retire(batch.step)
        updates = [Update(request, [], -1, "error") for request in faulty if request.finish_reason is None]
        if updates:
            self._finish([update.request for update in updates], "error")
        runs = None if counts is None else np.asarray(counts, np.int32)
        rows = batch.rows if batch.decode_only and batch.waits is None else batch.rows[batch.sampled]
        if runs is not None:
            self._settle(batch, runs)
        committed = take(self._running, batch.sampling, rows, np.asarray(sampled, np.int32), runs)
        committed.updates[:0] = updates
        for request in batch.requests[batch.num_decodes :]:
            if not request.samples and request.status is Status.DECODING:
                committed.updates.append(Update(request, [], -1, "length", first=True))
        self._end(committed)
        if not self._running:
            self._ratio.reset()
        return committed

    def _settle(self, batch: Batch, counts: IntArray) -> None:
        """Give back what drafts that were not accepted had reserved."""
        entries = batch.sampled
        settled = (entries < batch.num_decodes) & self._running.alive[batch.rows[entries]]
        entries, kept = entries[settled], counts[settled]
        self.memory.settle(batch.rows[entries], batch.counts[entries] - 1, batch.counts[entries] - kept)

    def undrawn(self) -> list[Request]:
        """Requests whose next token waits for a mask, the step that it belongs to being launched."""
        if not self._masked:
            return []
        requests, rows = self._running.decoding()
        return list(compress(requests, self.memory.undrawn[rows].tolist()))

    def draw(self, requests: Sequence[Request]) -> None:
        """The next tokens of ``requests``, which are undrawn, are being drawn: they take part in steps again."""
        self.memory.undrawn[[request.row for request in requests]] = False
        self._drawing += 1

    def commit_drawn(self, requests: Sequence[Request], tokens: Sequence[int]) -> Committed:
        """What :meth:`draw` began has completed, and the step that it belongs to before: a token for each request."""
        self._drawing -= 1
        rows = np.array([request.row for request in requests], np.int32)
        committed = take(self._running, requests, rows, np.asarray(tokens, np.int32), None)
        self._end(committed)
        return committed

    def _end(self, committed: Committed) -> None:
        """End the requests that a step has ended."""
        self._generation_tokens += len(committed.tokens) + sum(len(update.tokens) for update in committed.updates)
        ended: dict[FinishReason, list[Request]] = {}
        for update in committed.updates:
            if update.finish_reason is not None and update.request.finish_reason is None:
                ended.setdefault(update.finish_reason, []).append(update.request)
        for reason, requests in ended.items():
            self._finish(requests, reason)

    def _finish(self, requests: Sequence[Request], reason: FinishReason) -> None:
        for request in requests:
            if request.status is Status.WAITING:
                self._waiting.remove(request)
            else:
                self._running.leave(request)
                self.memory.release(request, keep=reason != "error")
            request.status = Status.FINISHED
            request.finish_reason = reason
            self._masked -= request.masks is not None
            del self._requests[request.id]
        if reason == "error":
            self._faults += len(requests)
            self._distrusted.add(requests)
            self._waiting.rekey(self._distrusted.key)
        self._prefilling.try_again()

    def _retract_youngest(self) -> None:
        """Send the request that arrived last back to the queue; what it has computed may stay in the cache."""
        assert not self._in_flight and not self._drawing, "a request is retracted only when its tokens are all known"
        victim = self._running.youngest()
        self._running.leave(victim)
        self.memory.release(victim)
        victim.tokens = victim.known_tokens()
        victim.status = Status.WAITING
        victim.retractions += 1
        self._retractions += 1
        self._waiting.add(victim)
        self._prefilling.try_again()
        self._ratio.retracted(self._running.decoding()[0])
