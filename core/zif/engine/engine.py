"""The engine: scheduler and runner in one loop, a step at a time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from zif.contract.errors import InvalidRequest, Overloaded
from zif.engine.inputs import checked_inputs, inputs_key
from zif.engine.pace import Pace
from zif.engine.results import StepResult
from zif.engine.runner import Drawing, InFlight, Runner
from zif.engine.table import BANS
from zif.engine.wire import News
from zif.messages import EngineOutput, EngineRequest, TokenLogprob
from zif.sampling.masks import Mask
from zif.sampling.params import SCORED
from zif.scheduler.batch import Update
from zif.scheduler.request import Request
from zif.scheduler.scheduler import Scheduler

MASK_SECONDS = 0.01
"""How long masks are waited for where there is nothing else to do: so late a new request, or an abort, is noticed."""
FAULT = (
    "the model's logits are no numbers to draw from (NaN, +inf, or nothing above -inf): the weights are broken, "
    "or activations are over what --dtype can hold; try --dtype float32"
)


class Engine:
    """Continues token sequences. Not thread-safe: one thread calls everything.

    With overlap, :meth:`step` launches a step before it reads the one before, so that the host's
    work is hidden behind the device's.
    """

    def __init__(self, scheduler: Scheduler, runner: Runner, facts: dict[str, Any]) -> None:
        """``facts`` are constants that :meth:`stats` reports."""
        self.scheduler = scheduler
        self.runner = runner
        self._facts = facts
        self._in_flight: InFlight | None = None
        self._ids: dict[int, str] = {}
        self._scored: dict[str, list[TokenLogprob | None]] = {}
        self._pace = Pace()
        self._started = time.monotonic()
        self._last_step_ms = self._last_launch_ms = 0.0

    def add(self, request: EngineRequest) -> EngineOutput | None:
        """Queue a request. The output is there where it cannot be served, and says why."""
        try:
            inputs = checked_inputs(self.runner.model.inputs, request.inputs, len(request.prompt_ids))
            key = (*request.cache_key, inputs_key(inputs))
            queued = Request(
                request.request_id, request.prompt_ids, request.params, request.eos_token_ids, key, inputs,
                None if request.masks is None else request.masks(),
            )  # fmt: skip
            if request.params.adjusted and len(queued.rule.ends) > BANS:
                raise InvalidRequest(
                    f"min_tokens takes up to {BANS} ends, not {len(queued.rule.ends)}", "stop_token_ids"
                )
            self.scheduler.add(queued)
        except (InvalidRequest, Overloaded) as error:
            return EngineOutput(
                request.request_id, finish_reason="error", error=str(error), overloaded=isinstance(error, Overloaded)
            )
        self._ids[queued.order] = queued.id
        if request.params.prompt_logprobs is not None:
            self._scored[request.request_id] = [None] * len(request.prompt_ids)
        return None

    def abort(self, request_ids: Sequence[str] | None = None) -> list[EngineOutput]:
        """End requests, all of them for None; those that have ended already are passed over."""
        ids = self.scheduler.request_ids() if request_ids is None else request_ids
        return [self._output(update, None) for i in ids if (update := self.scheduler.abort(i)) is not None]

    @property
    def has_work(self) -> bool:
        """Whether :meth:`step` would do anything."""
        return self.scheduler.has_work

    @property
    def patience(self) -> float:
        """Seconds for which :meth:`step` can wait for more requests, and the device is still not kept waiting."""
        if self._in_flight is None or not self.scheduler.only_decodes or self._in_flight.fetch.ready():
            return 0.0
        return self._pace.slack(time.perf_counter())

    def step(self) -> list[EngineOutput]:
        """What :meth:`advance` does, with an output for each request."""
        news = self.advance()
        return news.others + [EngineOutput(self._ids[number], tokens) for number, tokens in news.plain()]

    def advance(self) -> News:
        """Launch the next step and return what became known: of the step before, where steps overlap."""
        begin = time.perf_counter()
        drawing = self._draw(idle=False)
        before, self._in_flight = self._in_flight, None
        batch = self.scheduler.schedule()
        if batch is None and before is None and drawing is None:
            drawing = self._draw(idle=True)
        if batch is not None:
            self._in_flight = self.runner.launch(batch)
            now = time.perf_counter()
            self._last_launch_ms = (now - begin) * 1e3
            self._pace.launched(now, now - begin, decode=batch.decode_only, behind=before is not None)
        if not self.scheduler.config.overlap:
            before, self._in_flight = self._in_flight, None
        news = self._commit(before) if before is not None else News()
        if drawing is not None:
            news.others += self._commit_drawn(drawing)
        return news

    def flush_cache(self) -> bool:
        """Forget cached prefixes; False while requests run."""
        if self._in_flight is not None and not self.scheduler.request_ids():
            outputs = self.step()  # what is in flight serves nobody any more: wait for it
            assert not outputs
        return self.scheduler.flush_cache()

    def close(self, *, failed: bool = False) -> None:
        """End what was started with it; it does no step any more, because it is done or has ``failed``."""
        self.runner.close(failed=failed)

    def stats(self) -> dict[str, Any]:
        """Gauges and counters, by the names that :class:`zif.frontend.client.EngineClient` lists."""
        return {
            **self.scheduler.stats(),
            "last_step_ms": self._last_step_ms,
            "last_launch_ms": self._last_launch_ms,
            "uptime_s": time.monotonic() - self._started,
            **self._facts,
        }

    def _commit(self, launched: InFlight) -> News:
        begin = time.perf_counter()
        result = self.runner.collect(launched)
        now = time.perf_counter()
        self._last_step_ms = self._pace.ended(now, now - begin, decode=launched.batch.decode_only) * 1e3
        for request, first, scores in result.prompt_logprobs(launched.batch):
            if request.id in self._scored:  # not aborted meanwhile
                self._scored[request.id][first : first + len(scores)] = scores
        done = self.scheduler.commit(launched.batch, result.tokens, result.faulty(launched.batch), result.counts)
        others = [self._output(update, result) for update in done.updates]
        return News(done.numbers, done.tokens, done.counts, others)

    def _draw(self, *, idle: bool) -> Drawing | None:
        """Launch the draw of undrawn requests whose masks are there.

        The others are waited for as long as keeps the device busy; where it is ``idle``, :data:`MASK_SECONDS`.
        """
        undrawn = self.scheduler.undrawn()
        if not undrawn:
            return None
        now = time.perf_counter()
        end = now + (MASK_SECONDS if idle else self._pace.slack(now))
        requests: list[Request] = []
        masks: list[Mask] = []
        for request in undrawn:
            assert request.masks is not None
            left = max(end - time.perf_counter(), 0.0)
            mask = request.masks.mask(0.0 if idle and masks else left)
            if mask is not None:
                requests.append(request)
                masks.append(mask)
        if not requests:
            return None
        self.scheduler.draw(requests)
        return self.runner.draw(requests, masks)

    def _commit_drawn(self, drawing: Drawing) -> list[EngineOutput]:
        """Read what was drawn apart from the steps that it belongs to, which have been read."""
        result = self.runner.collect(drawing)
        updates = self.scheduler.commit_drawn(drawing.requests, result.tokens.tolist())
        for update in updates:
            if update.finish_reason is None:
                assert update.request.masks is not None
                update.request.masks.advance(update.tokens[-1])
        return [self._output(update, result) for update in updates]

    def _output(self, update: Update, result: StepResult | None) -> EngineOutput:
        request = update.request
        if update.finish_reason is None and not update.first and not request.params.needs & SCORED:
            return EngineOutput(request.id, update.tokens)
        output = EngineOutput(request.id, finish_reason=update.finish_reason, stop_reason=update.stop_reason)
        if update.finish_reason is not None or update.first:  # said once at each end
            output.cached_tokens = request.cached_tokens
        if update.finish_reason is not None:
            del self._ids[request.order]
        elif update.first:
            output.number = request.order
        if update.tokens:
            assert result is not None
            output.token_ids = update.tokens
            if request.params.logprobs is not None:
                output.logprobs = result.logprobs(update.index, len(update.tokens), request.params.logprobs)
        scored = self._scored.pop(request.id, None)
        if update.finish_reason == "error":
            output.error, output.faulty = FAULT, True
        elif update.finish_reason != "abort":
            output.prompt_logprobs = scored
        return output
