"""Which prompts a step computes, and which waiting requests it admits."""

from __future__ import annotations

from zif.scheduler.batch import Chunk
from zif.scheduler.config import SchedulerConfig
from zif.scheduler.forecast import pages_for_new, pages_still_needed
from zif.scheduler.memory import Memory, PageChanges
from zif.scheduler.policy import NewTokenRatio, SharedPrefixes
from zif.scheduler.request import Request, Status
from zif.scheduler.running import Running
from zif.scheduler.waiting import Waiting

SCORED_POSITIONS = 256
"""Prompt positions a step whose logits are asked for: each takes the vocabulary's size in float32, and copies of it."""
MOST_DEFERRED = 256
"""Requests that a step may put off, for a prefix in the making or scores, before it leaves the rest of the queue."""
ADMISSION_PAUSE = 8
"""Steps without a try at admission after one that found no memory, unless a request ends or arrives."""


class Prefilling:
    """Fills a step with chunks of prompts, ``config.chunked_prefill_size`` tokens at the most.

    ``cached_tokens``: tokens of admitted prompts that the prefix cache had. ``prompt_tokens``: all of their tokens.
    """

    def __init__(
        self,
        config: SchedulerConfig,
        memory: Memory,
        waiting: Waiting,
        running: Running,
        ratio: NewTokenRatio,
        max_step_tokens: int,
    ) -> None:
        self._budget = config.chunked_prefill_size
        self._radix = config.radix_cache
        self._memory = memory
        self._waiting = waiting
        self._running = running
        self._ratio = ratio
        self._max_step_tokens = max_step_tokens
        self._scorable = SCORED_POSITIONS
        self._admit_from = 0  # no admission before this step: the last try found no memory
        self.cached_tokens = 0
        self.prompt_tokens = 0

    def try_again(self) -> None:
        """A request has come or ended: the next step may admit some."""
        self._admit_from = 0

    def chunks(self, step: int, changes: list[PageChanges]) -> tuple[list[Chunk], list[Request]]:
        """The chunks of ``step``: of running prefills, then of newly admitted requests, which are returned second.

        Adds to ``changes`` the page table entries that change.
        """
        budget = self._budget
        chunks: list[Chunk] = []
        stalled = False
        self._scorable = SCORED_POSITIONS
        for request in self._running.prefilling.values():
            start = int(self._memory.kv[request.row])
            want = self._wanted(request, start, budget)
            count = self._memory.fit(start, want)
            stalled |= count < want
            if count:
                changes.append(self._memory.extend(request.row, count))
                chunks.append(Chunk(request, start, count))
                budget -= count
        if stalled or budget <= 0 or not self._waiting or not self._memory.row_allocator.num_free:
            return chunks, []
        if step < self._admit_from and self._running:
            return chunks, []
        return chunks, self._admit(step, budget, chunks, changes)

    def _wanted(self, request: Request, start: int, budget: int) -> int:
        """Tokens of ``request`` from ``start`` on that a step with ``budget`` left should compute."""
        want = min(len(request.tokens) - start, budget)
        if not request.scored:
            want = min(want, self._scorable)
            self._scorable -= want
        return want

    def _admit(self, step: int, budget: int, chunks: list[Chunk], changes: list[PageChanges]) -> list[Request]:
        """Admit waiting requests while tokens, rows and pages last."""
        memory, cache = self._memory, self._memory.cache
        needed = pages_still_needed(memory, self._running, self._ratio.value, self._max_step_tokens)
        shared = SharedPrefixes(memory.unit)
        if self._radix:
            for request in self._running.prefilling.values():
                shared.add(request, *memory.shared_prefix(request))
        admitted: list[Request] = []
        deferred = 0
        candidates = self._waiting.candidates()
        for request in candidates:
            if budget <= 0 or memory.row_allocator.num_free == 0:
                break
            if deferred == MOST_DEFERRED:
                break
            match = cache.match(request.matchable(), request.extra_key)
            if shared.covers(request, match.node, match.length):
                deferred += 1
                continue
            lock = cache.lock(match.node)
            need = pages_for_new(memory, request, match.length, self._ratio.value, self._max_step_tokens)
            alone = not self._running
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
                self._admit_from = step + ADMISSION_PAUSE
                break
            changes.append(memory.admit(request, match, lock))
            changes.append(memory.extend(request.row, count))
            chunks.append(Chunk(request, match.length, count))
            needed += need - memory.begun(match.length, count)
            budget -= count
            shared.add(request, match.node, match.length)
            if request.retractions == 0:
                request.cached_tokens = match.length
                self.cached_tokens += match.length
                self.prompt_tokens += len(request.prompt)
            request.status = Status.PREFILLING
            self._running.enter(request)
            self._waiting.admitted()
            admitted.append(request)
            if count < want:
                break
        for request in admitted:
            self._waiting.remove(request)
        candidates.close()
        return admitted
