"""A device that computes no maths, but knows exactly what every KV slot must hold.

A token's KV is stood for by a hash of the whole history up to it. On every step the device checks that each
position which an entry can see holds the hash of that very request's history, that no slot is written while a
step in flight may still use it, and that page tables and rows are told everything they need. The "sampled"
token is a function of the history alone, so that what a request must answer is known beforehand. Of drafts it accepts
as many as it is told to; in the slots of the others there is nothing that anybody may see.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from zif.sampling.params import SamplingParams
from zif.scheduler.batch import Batch, Update
from zif.scheduler.config import SchedulerConfig
from zif.scheduler.request import Request, Status
from zif.scheduler.scheduler import Scheduler

VOCAB = 12
EOS = 0
WRONG = -2
"""What a draft that was not accepted leaves in its slot."""
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Group:
    """A cache group as the host sees it."""

    name: str
    window: int | None = None
    page_size: int = 4


def hashes(tokens: Sequence[int]) -> Ints:
    """One value a position, which stands for all tokens up to and with it."""
    out = np.empty(len(tokens), dtype=np.int64)
    value = 17
    for i, token in enumerate(tokens):
        value = (value * 1_000_003 + token + 1) % 2_147_483_629
        out[i] = value
    return out


def next_token(history: int) -> int:
    """What the "model" says after a history with this hash."""
    return int(history // 7) % VOCAB


def answer(request: Request, max_length: int) -> tuple[list[int], str]:
    """Output and finish reason that a request must have, however it is scheduled."""
    tokens = request.prompt_ids
    output: list[int] = []
    params = request.params
    assert params.max_tokens is not None
    limit = min(params.max_tokens, max_length - len(tokens))
    stops = set(params.stop_token_ids) | (set() if params.ignore_eos else {EOS})
    while len(output) < limit:
        token = next_token(int(hashes(tokens + output)[-1]))
        output.append(token)
        if token in stops and len(output) > params.min_tokens:
            return output, "stop"
    return output, "length"


@dataclass
class Launched:
    """A step in flight: its tokens, and the slots ([G] arrays of page * its tokens + offset) that it uses."""

    batch: Batch
    sampled: list[list[int]]
    used: list[Ints]


class SimulatedDevice:
    """Runs batches in order; see the module."""

    def __init__(
        self,
        groups: Sequence[Group],
        num_pages: Sequence[int],
        page_size: int,
        rows: int,
        longest: int,
        accepts: Callable[[int], int],
    ):
        self.accepts = accepts
        self.groups = groups
        self.factors = [group.page_size // page_size for group in groups]
        self.store = [
            np.full(n * group.page_size, -1, dtype=np.int64) for n, group in zip(num_pages, groups, strict=True)
        ]
        self.tables = [np.full((rows + 1, -(-longest // group.page_size)), -1, dtype=np.int64) for group in groups]
        self.owner: dict[int, Request] = {}
        self.history: dict[int, list[int]] = {}
        self.in_flight: deque[Launched] = deque()
        self.undrawn: set[int] = set()

    def launch(self, batch: Batch) -> None:
        """Carry out ``batch``, and keep its tokens until ``complete``."""
        for request in batch.new_requests:
            for step in self.in_flight:
                assert request.row not in step.batch.rows, "a row is given away that a step in flight uses"
            self.owner[request.row] = request
            self.undrawn.discard(request.row)
            self.history[request.row] = []
            for table in self.tables:
                table[request.row] = -1
        cells = list(zip(batch.page_rows.tolist(), batch.page_indices.tolist(), strict=True))
        assert len(set(cells)) == len(cells), "a page table entry is set twice in one step"
        for table, factor, ids in zip(self.tables, self.factors, batch.page_ids, strict=True):
            cells = list(zip(batch.page_rows.tolist(), (batch.page_indices // factor).tolist(), strict=True))
            assert len(set(zip(cells, ids.tolist(), strict=True))) == len(set(cells)), "one entry is set to two pages"
            table[batch.page_rows, batch.page_indices // factor] = ids
        assert len(set(batch.rows.tolist())) == len(batch.requests) == len(batch.rows)
        assert 0 not in batch.rows
        assert len(batch.requests) > 0

        tokens = iter(batch.tokens.tolist())
        used: list[list[Ints]] = [[] for _ in self.groups]
        writes: list[tuple[int, Ints, Ints]] = []
        sampled: list[list[int]] = []
        for entry, request in enumerate(batch.requests):
            row, start, count = (int(a[entry]) for a in (batch.rows, batch.starts, batch.counts))
            assert self.owner[row] is request, "the row was not set up for this request"
            known = self.history[row]
            assert row not in self.undrawn, "a request goes on whose token has not been drawn"
            if entry < batch.num_decodes:
                bound, start = start, len(known) - 1
                assert bound == start if batch.exact else bound >= start, "a decode continues behind the last token"
            else:
                chunk = [next(tokens) for _ in range(count)]
                assert (request.prompt_ids + request.output_ids)[start : start + count] == chunk
                if not known:  # a cached prefix: its tokens are the request's own
                    known = self.history[row] = (request.prompt_ids + request.output_ids)[:start]
                assert len(known) == start, "chunks follow one another"
                known += chunk
            end, fed = start + count, len(known)
            if batch.waits is not None and batch.waits[entry]:
                assert end == len(known), "what waits for a mask brings no drafts"
                self.undrawn.add(row)
            elif batch.samples[entry]:
                drafts = count - 1 if entry < batch.num_decodes else 0
                assert end == len(known) + drafts
                sampled.append([])
                for _ in range(self.accepts(drafts) + 1):
                    token = next_token(int(hashes(known)[-1]))
                    known.append(token)
                    sampled[-1].append(token)
                fed = len(known) - 1
            else:
                assert entry >= batch.num_decodes
            history = np.full(end, WRONG, dtype=np.int64)
            history[:fed] = hashes(known)[:fed]
            for g, group in enumerate(self.groups):
                first = 0 if group.window is None else max(0, start - group.window + 1)
                slots = self._slots(g, row, np.arange(first, end))
                before = slots[: start - first]
                assert (self.store[g][before] == history[first:start]).all(), "a visible position holds foreign KV"
                writes.append((g, slots[start - first :], history[start:end]))
                used[g].append(slots[: fed - first])  # behind that are wrong drafts, which nobody sees
        assert next(tokens, None) is None
        assert len(sampled) == len(batch.sampling)
        for g, slots, values in writes:
            for step in self.in_flight:
                assert not np.isin(slots, step.used[g]).any(), "a slot is written that a step in flight uses"
            self.store[g][slots] = values
        for g in range(len(self.groups)):
            written = np.concatenate([slots for group, slots, _ in writes if group == g])
            assert len(np.unique(written)) == len(written), "two entries of one step write the same slot"
        self.in_flight.append(Launched(batch, sampled, [np.concatenate(u) for u in used]))

    def draw(self, request: Request) -> int:
        """The next token of a request that waited for a mask."""
        self.undrawn.remove(request.row)
        known = self.history[request.row]
        known.append(next_token(int(hashes(known)[-1])))
        return known[-1]

    def _slots(self, g: int, row: int, positions: Ints) -> Ints:
        size = self.groups[g].page_size
        pages: Ints = self.tables[g][row, positions // size]
        assert (pages > 0).all(), "a visible position has no page"
        slots: Ints = pages * size + positions % size
        return slots

    def complete(self) -> Launched:
        """The oldest step in flight, which is over now."""
        return self.in_flight.popleft()


@dataclass
class Session:
    """A scheduler on a simulated device, checked on every step."""

    config: SchedulerConfig
    groups: Sequence[Group]
    num_pages: Sequence[int]
    accepts: Callable[[int], int] = lambda drafts: drafts // 2
    """How many of so many drafts are right."""
    masked: Callable[[], bool] = lambda: False
    """Whether the mask that a request waits for is there."""
    updates: list[Update] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.scheduler = Scheduler(self.config, self.groups, self.num_pages)
        memory = self.scheduler.memory
        self.device = SimulatedDevice(
            self.groups,
            self.num_pages,
            memory.page_size,
            self.config.max_running_requests,
            memory.max_length,
            self.accepts,
        )
        self.requests: dict[str, Request] = {}
        self.batches: list[Batch] = []
        self.emitted: dict[str, list[int]] = {}
        self.ended: dict[str, str] = {}
        self.scored: dict[str, set[int]] = {}
        self.faulty: set[str] = set()
        """Requests of which the device draws no token from now on: their logits are not sound."""

    def add(self, prompt: Sequence[int], **params: object) -> Request:
        """Queue a request; its id is its number."""
        settings: dict[str, object] = {"max_tokens": 8, **params}
        masks: Any = settings.pop("masks", None)
        request = Request(
            str(len(self.requests)),
            prompt,
            SamplingParams(**settings),
            (EOS,),
            masks=masks,  # type: ignore[arg-type]
        )
        self.scheduler.add(request)
        self.requests[request.id] = request
        self.emitted[request.id] = []
        return request

    def abort(self, request_id: str) -> bool:
        """Abort a request; False if it had ended."""
        update = self.scheduler.abort(request_id)
        if update is not None:
            self._take(update)
        return update is not None

    def step(self, abort_launched: str | None = None) -> bool:
        """One turn of the engine's loop; False once nothing is left to do.

        ``abort_launched`` is aborted between the launch and the commit of the step before.
        """
        drawn = self.draw(waiting=False)
        batch = self.scheduler.schedule()
        if batch is None and not self.device.in_flight and not drawn:
            drawn = self.draw(waiting=True)
        if batch is None and not self.device.in_flight and not drawn:
            assert not self.scheduler.has_work, "there is work, but nothing can be launched and nothing is in flight"
            return False
        if batch is not None:
            assert batch.num_tokens <= self.scheduler.max_step_tokens
            self.batches.append(batch)
            for entry in np.flatnonzero(batch.all_logits):
                begin, count = int(batch.starts[entry]), int(batch.counts[entry])
                self.scored.setdefault(batch.requests[entry].id, set()).update(range(begin, begin + count))
            self.device.launch(batch)
        if abort_launched is not None:
            self.abort(abort_launched)
        if self.device.in_flight and (batch is None or len(self.device.in_flight) > (1 if self.config.overlap else 0)):
            self.commit()
        if drawn:
            requests, tokens = zip(*drawn, strict=True)
            for update in self.scheduler.commit_drawn(requests, tokens):
                self._take(update)
        self.check()
        return True

    def draw(self, *, waiting: bool) -> list[tuple[Request, int]]:
        """Launch the draws of requests whose masks are there; of the first at least, if they are waited for."""
        undrawn = self.scheduler.undrawn()
        ready = [request for number, request in enumerate(undrawn) if self.masked() or (waiting and not number)]
        if ready:
            self.scheduler.draw(ready)
        return [(request, self.device.draw(request)) for request in ready]

    def commit(self) -> None:
        """Complete and commit the oldest step in flight."""
        done = self.device.complete()
        sampling = zip(done.batch.sampling, done.sampled, strict=True)
        runs = [[*run[:-1], -1] if request.id in self.faulty else run for request, run in sampling]
        tokens = np.array([token for run in runs for token in run], dtype=np.int32)
        counts = [len(run) for run in runs] if done.batch.drafts else None
        for update in self.scheduler.commit(done.batch, tokens, counts=counts):
            self._take(update)

    def _take(self, update: Update) -> None:
        key = update.request.id
        assert key not in self.ended, "a request goes on after its end"
        self.emitted[key] += update.tokens
        if update.finish_reason is not None:
            self.ended[key] = update.finish_reason

    def run(self, max_steps: int = 5000) -> None:
        """Step until nothing is left to do."""
        for _ in range(max_steps):
            if not self.step():
                return
        raise AssertionError(f"{max_steps} steps did not finish {self.scheduler.request_ids()}")

    def check(self) -> None:
        """Every page is free, waiting for a step, in the cache, or a running request's own."""
        memory = self.scheduler.memory
        memory.cache.check()
        running = [r for r in self.requests.values() if r.status in (Status.PREFILLING, Status.DECODING)]
        assert len({r.row for r in running}) == memory.row_allocator.num_used == len(running)
        memory.row_allocator.check()
        for g, allocator in enumerate(memory.allocators):
            allocator.check()
            own = []
            for r in running:
                begin = max(memory.owned[r.row], memory.dead[g, r.row]) * memory.geometry.per_unit[g]
                own += memory.pages[g][r.row, begin : -(-memory.kv[r.row] // self.groups[g].page_size)].tolist()
            assert len(set(own)) == len(own)
            assert allocator.in_use(np.array(own, dtype=np.int32))
            assert allocator.num_used == len(own) + memory.cache.total[g], f"pages of {self.groups[g].name} leaked"

    def check_drained(self) -> None:
        """All requests have ended with the answer they must have; after a flush all pages are free."""
        self.check()
        for key, request in self.requests.items():
            output, reason = answer(request, self.scheduler.max_length)
            assert request.output_ids == self.emitted[key]
            if self.ended[key] == "error":
                assert key in self.faulty
            if self.ended[key] in ("abort", "error"):
                assert self.emitted[key] == output[: len(self.emitted[key])]
            else:
                assert (self.emitted[key], self.ended[key]) == (output, reason)
                if request.params.prompt_logprobs is not None:
                    assert self.scored[key] == set(range(len(request.prompt)))
        assert self.scheduler.flush_cache()
        assert self.scheduler.stats()["pages_free"] == self.scheduler.stats()["pages_total"]
        assert all(a.num_used == 0 for a in self.scheduler.memory.allocators)
