"""Continuous batching with chunked prefill, a prefix cache, retraction and overlap, in host integers."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from itertools import compress
from typing import Any

import numpy as np
import numpy.typing as npt

from zif.cache.groups import HostGroup
from zif.contract.errors import InvalidRequest, Overloaded
from zif.messages import FinishReason
from zif.scheduler.batch import (
    Batch,
    Chunk,
    DecodeFacts,
    Decodes,
    Update,
    build_batch,
    decode_facts,
    join_changes,
    sampler_needs,
    split_runs,
)
from zif.scheduler.config import SchedulerConfig
from zif.scheduler.distrust import Distrusted
from zif.scheduler.memory import Memory, PageChanges
from zif.scheduler.policy import NewTokenRatio, QueueOrder, SharedPrefixes
from zif.scheduler.request import Request, Status
from zif.scheduler.room import pages_for_new, pages_still_needed
from zif.scheduler.waiting import Waiting

SCORED_POSITIONS = 256
"""Prompt positions a step whose logits are asked for: each takes the vocabulary's size in float32, and copies of it."""
MOST_DEFERRED = 256
"""Requests that a step may put off, for a prefix in the making or scores, before it leaves the rest of the queue."""
_NO_INDICES = np.empty(0, np.intp)
ADMISSION_PAUSE = 8
"""Steps without a try at admission after one that found no memory, unless a request ends or arrives."""


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
        self._waiting = Waiting()
        self._prefilling: list[Request] = []
        self._decoding: list[Request] = []
        self._decode_facts: DecodeFacts | None = None  # of _decoding; None: to be made anew
        self._in_flight: deque[Batch] = deque()
        self._drawing = 0  # draws that were launched and are not committed
        self._masked = 0  # requests whose tokens wait for masks
        self._scorable = SCORED_POSITIONS
        self._order = QueueOrder(config.policy, self.memory.cache)
        self._ratio = NewTokenRatio(config.conservativeness)
        self._admit_from = 0  # no admission before this step: the last try found no memory
        self._step = 0
        self._arrivals = 0
        self._cached_tokens = 0
        self._prompt_tokens = 0
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
        self._order.joined(request, len(self._waiting))
        request.extra_key = self._distrusted.key(request)
        self._requests[request.id] = request
        self._masked += request.masks is not None
        self._waiting.add(request)
        self._admit_from = 0

    def abort(self, request_id: str) -> Update | None:
        """End a request, wherever it is. None if there is no such request (any more)."""
        request = self._requests.get(request_id)
        if request is None:
            return None
        self._finish([request], "abort")
        return Update(request, [], -1, "abort")

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
        return not (self._waiting or self._prefilling)

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
            "num_running": len(self._prefilling) + len(self._decoding),
            "num_waiting": len(self._waiting),
            "pages_total": sum(a.capacity for a in memory.allocators),
            "pages_free": sum(a.num_free for a in memory.allocators),
            "pages_cached": sum(memory.cache.total),
            "tokens_cached": memory.cache.num_tokens,
            "cached_tokens_total": self._cached_tokens,
            "prompt_tokens_total": self._prompt_tokens,
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
        if memory.windows and (self._prefilling or self._decoding):
            running = [r.row for r in self._prefilling] + [r.row for r in self._decoding]
            memory.forget_unseen(np.array(running, dtype=np.int32), step)
        decodes = self._make_room_for_decodes()
        if decodes is None:
            return None
        exact = not memory.drafts.any() if self.config.drafts else True
        changes = self._extended(decodes) if decodes.requests else []
        chunks, new = self._prefill(self.config.chunked_prefill_size, changes)
        if decodes.requests or chunks:
            return self._launch(decodes, chunks, new, changes, exact)
        if self._in_flight or self._drawing or memory.undrawn.any() or not self._requests:
            return None
        # Several half-done prefills can hold all pages between them: the youngest makes way.
        assert len(self._prefilling) > 1, "nothing runs, nothing is in flight, and nothing can be admitted"
        self._retract_youngest()
        return self.schedule()

    def _make_room_for_decodes(self) -> Decodes | None:
        """The decodes of this step, with pages reserved for those that begin a page; without drafts, if need be.

        Retracts requests if need be; None if that has to wait for the step in flight.
        """
        memory, ahead = self.memory, 0
        while True:
            decodes = self._decoding
            if self._decode_facts is None:
                self._decode_facts = decode_facts(decodes)
            rows, needs, drafts, masked = self._decode_facts
            starts = memory.kv[rows]
            active = starts < memory.final[rows]
            if masked:
                active &= ~memory.undrawn[rows]
            if not active.all():
                decodes, rows, starts = list(compress(decodes, active.tolist())), rows[active], starts[active]
                needs = sampler_needs(decodes)
                drafts = None if drafts is None else drafts[active]
            running = len(self._prefilling) + len(self._decoding)
            spare = ahead if running > 1 else 0
            if drafts is not None and len(starts):
                counts = 1 + np.minimum(drafts, memory.final[rows] - starts - 1)
                if memory.reserve_runs(starts, counts, spare):
                    return Decodes(decodes, rows, starts, needs, _NO_INDICES, counts, masked)
            fresh = np.flatnonzero(starts % memory.page_size == 0)
            if memory.reserve_decodes(starts, fresh, spare):
                return Decodes(decodes, rows, starts, needs, fresh, None, masked)
            if self._in_flight or self._drawing:
                return None
            assert running > 1, "one request alone must fit: add() refuses those that do not"
            self._retract_youngest()
            # Once something had to go, make room for a while: a retraction a step would starve everybody.
            ahead = len(self._decoding) * NewTokenRatio.AHEAD

    def _extended(self, decodes: Decodes) -> list[PageChanges]:
        if decodes.counts is not None:
            return [self.memory.extend_runs(decodes.rows, decodes.starts, decodes.counts)]
        return [self.memory.extend_decodes(decodes.rows, decodes.starts, decodes.fresh)]

    def _prefill(self, budget: int, changes: list[PageChanges]) -> tuple[list[Chunk], list[Request]]:
        """Chunks of running prefills, then of newly admitted requests (returned second), up to ``budget`` tokens."""
        chunks: list[Chunk] = []
        stalled = False
        self._scorable = SCORED_POSITIONS
        for request in self._prefilling:
            start = int(self.memory.kv[request.row])
            want = self._wanted(request, start, budget)
            count = self.memory.fit(start, want)
            stalled |= count < want
            if count:
                changes.append(self.memory.extend(request.row, count))
                chunks.append(Chunk(request, start, count))
                budget -= count
        if stalled or budget <= 0 or not self._waiting or not self.memory.row_allocator.num_free:
            return chunks, []
        if self._step < self._admit_from and (self._prefilling or self._decoding):
            return chunks, []
        return chunks, self._admit(budget, chunks, changes)

    def _wanted(self, request: Request, start: int, budget: int) -> int:
        """Tokens of ``request`` from ``start`` on that a step with ``budget`` left should compute."""
        want = min(len(request.tokens) - start, budget)
        if not request.scored:
            want = min(want, self._scorable)
            self._scorable -= want
        return want

    def _admit(self, budget: int, chunks: list[Chunk], changes: list[PageChanges]) -> list[Request]:
        """Admit waiting requests while tokens, rows and pages last."""
        memory, cache = self.memory, self.memory.cache
        running = self._prefilling + self._decoding
        needed = pages_still_needed(memory, running, self._ratio.value, self.max_step_tokens)
        shared = SharedPrefixes(memory.unit)
        if self.config.radix_cache:
            for request in self._prefilling:
                shared.add(request, *memory.shared_prefix(request))
        admitted: list[Request] = []
        deferred = 0
        for request in self._order.sort(self._waiting):
            if budget <= 0 or memory.row_allocator.num_free == 0:
                break
            if deferred == MOST_DEFERRED:
                break
            match = cache.match(request.matchable(), request.extra_key)
            if shared.covers(request, match.node, match.length):
                deferred += 1
                continue
            lock = cache.lock(match.node)
            need = pages_for_new(memory, request, match.length, self._ratio.value, self.max_step_tokens)
            alone = not (self._prefilling or self._decoding or admitted)
            want = self._wanted(request, match.length, budget)
            if not want:  # its positions cannot be scored in this step
                cache.unlock(lock, after_step=-1)
                deferred += 1
                continue
            count = 0
            if alone or bool((need + needed <= memory.available()).all()):
                count = memory.fit(match.length, want)
            if count == 0:
                cache.unlock(lock, after_step=-1)
                # Trying costs time in every step, and until a request ends or comes little changes.
                self._admit_from = self._step + ADMISSION_PAUSE
                break
            changes.append(memory.admit(request, match, lock))
            changes.append(memory.extend(request.row, count))
            chunks.append(Chunk(request, match.length, count))
            needed += need - memory.begun(match.length, count)
            budget -= count
            shared.add(request, match.node, match.length)
            if request.retractions == 0:
                request.cached_tokens = match.length
                self._cached_tokens += match.length
                self._prompt_tokens += len(request.prompt)
            request.status = Status.PREFILLING
            self._order.admitted()
            admitted.append(request)
            if count < want:
                break
        for request in admitted:
            self._waiting.remove(request)
        self._prefilling.extend(admitted)
        return admitted

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
                chunk.request.status = Status.DECODING
                self._decoding.append(chunk.request)
                self._decode_facts = None
        if chunks:
            self._prefilling = [r for r in self._prefilling if r.status is Status.PREFILLING]
        return batch

    # -- results -------------------------------------------------------------------------------------------

    def commit(
        self,
        batch: Batch,
        sampled: Sequence[int] | npt.NDArray[np.integer[Any]],
        faulty: Iterable[Request] = (),
        counts: Sequence[int] | None = None,
    ) -> list[Update]:
        """Step ``batch`` has completed; ``sampled[i]`` is the token drawn for ``batch.sampling[i]``.

        With ``counts``, which a batch of drafts needs, there are ``counts[i]`` tokens for it, one after the other.
        Tokens behind a request's end, or of requests that have ended meanwhile (a stop token found late, an abort), are
        dropped. A request whose last token is -1 ends with "error", and so does one that is among ``faulty``: logits of
        its prompt are not sound.
        """
        assert self._in_flight, "no step is in flight"
        assert self._in_flight[0] is batch, "steps are committed in the order they were made"
        tokens: list[int] = sampled.tolist() if isinstance(sampled, np.ndarray) else list(sampled)
        assert (counts is None) == (batch.drafts == 0), "drafts were verified if there were any"
        runs = [[token] for token in tokens] if counts is None else split_runs(tokens, counts)
        assert len(runs) == len(batch.sampling), f"{len(runs)} runs of tokens for {len(batch.sampling)} entries"
        self._in_flight.popleft()
        self.memory.retire(batch.step)
        running = [request for request in faulty if request.finish_reason is None]
        if running:
            self._finish(running, "error")
        updates = [Update(request, [], -1, "error") for request in running]
        ended: dict[FinishReason, list[Request]] = {}
        if counts is not None:
            self._settle(batch, counts)
        self._take(zip(batch.sampling, runs, strict=True), updates, ended)
        for request in batch.requests[batch.num_decodes :]:
            if not request.samples and request.status is Status.DECODING:
                updates.append(Update(request, [], -1, "length"))
                ended.setdefault("length", []).append(request)
        for why, requests in ended.items():
            self._finish(requests, why)
        if not self._prefilling and not self._decoding:
            self._ratio.reset()
        return updates

    def _settle(self, batch: Batch, counts: Sequence[int]) -> None:
        """Give back what drafts that were not accepted had reserved."""
        for request, entry, count in zip(batch.sampling, batch.sampled, counts, strict=True):
            if entry < batch.num_decodes and request.finish_reason is None:
                drafts = int(batch.counts[entry]) - 1
                self.memory.settle(request.row, drafts, drafts + 1 - count)

    def undrawn(self) -> list[Request]:
        """Requests whose next token waits for a mask, the step that it belongs to being launched."""
        return [r for r in self._decoding if self.memory.undrawn[r.row]] if self._masked else []

    def draw(self, requests: Sequence[Request]) -> None:
        """The next tokens of ``requests``, which are undrawn, are being drawn: they take part in steps again."""
        self.memory.undrawn[[request.row for request in requests]] = False
        self._drawing += 1

    def commit_drawn(self, requests: Sequence[Request], tokens: Sequence[int]) -> list[Update]:
        """What :meth:`draw` began has completed, and the step that it belongs to before: a token for each request."""
        self._drawing -= 1
        updates: list[Update] = []
        ended: dict[FinishReason, list[Request]] = {}
        self._take(zip(requests, ([token] for token in tokens), strict=True), updates, ended)
        for reason, over in ended.items():
            self._finish(over, reason)
        return updates

    def _take(
        self,
        runs: Iterable[tuple[Request, list[int]]],
        updates: list[Update],
        ended: dict[FinishReason, list[Request]],
    ) -> None:
        """Give requests the tokens that were drawn for them; adds to ``updates``, and to ``ended`` by reasons."""
        count = 0
        for index, (request, run) in enumerate(runs):
            if request.finish_reason is not None:
                continue
            if run[-1] < 0:
                updates.append(Update(request, [], -1, "error"))
                ended.setdefault("error", []).append(request)
                continue
            rule, output = request.rule, request.output_ids
            reason, stop = None, None
            if len(run) > 1 or rule.may_end(len(output), run[0]):
                kept, reason, stop = rule.cut(len(output), run)
                del run[kept:]
            output += run
            count += len(run)
            updates.append(Update(request, run, index, reason, stop))
            if reason is not None:
                ended.setdefault(reason, []).append(request)
        self._generation_tokens += count

    def _finish(self, requests: Sequence[Request], reason: FinishReason) -> None:
        running = False
        for request in requests:
            if request.status is Status.WAITING:
                self._waiting.remove(request)
            else:
                running = True
                self.memory.release(request, keep=reason != "error")
            request.status = Status.FINISHED
            request.finish_reason = reason
            self._masked -= request.masks is not None
            del self._requests[request.id]
        if reason == "error":
            self._faults += len(requests)
            self._distrusted.add(requests)
            for waiting in self._waiting:
                waiting.extra_key, waiting.matched = self._distrusted.key(waiting), (-1, 0)
        self._admit_from = 0
        if running:
            self._sweep()

    def _retract_youngest(self) -> None:
        """Send the request that arrived last back to the queue; what it has computed may stay in the cache."""
        assert not self._in_flight and not self._drawing, "a request is retracted only when its tokens are all known"
        victim = max(self._prefilling + self._decoding, key=lambda r: r.order)
        self.memory.release(victim)
        victim.tokens = victim.known_tokens()
        victim.status = Status.WAITING
        victim.retractions += 1
        self._retractions += 1
        self._waiting.add(victim)
        self._sweep()
        self._ratio.retracted(self._decoding)

    def _sweep(self) -> None:
        """Drop from the lists of what runs whatever does not run any more."""
        self._prefilling = [r for r in self._prefilling if r.status is Status.PREFILLING]
        self._decoding = [r for r in self._decoding if r.status is Status.DECODING]
        self._decode_facts = None
        self._admit_from = 0
