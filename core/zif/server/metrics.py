"""Prometheus metrics of the HTTP side, and of the engine as it reports itself."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from zif.frontend import Delta

_SHORT = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
_MEDIUM = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 60.0)
_LONG = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
_SIZES = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144)

# Statistics by metric: name, help, kind.
_ENGINE = {
    "num_running": ("zif_requests_running", "Sequences in the running batch", "gauge"),
    "num_waiting": ("zif_requests_waiting", "Sequences waiting for admission", "gauge"),
    "pages_total": ("zif_kv_pages", "KV pages there are", "gauge"),
    "pages_free": ("zif_kv_pages_free", "KV pages that hold nothing", "gauge"),
    "pages_cached": ("zif_kv_pages_cached", "KV pages kept only for reuse", "gauge"),
    "tokens_cached": ("zif_kv_tokens_cached", "Tokens in the prefix cache", "gauge"),
    "last_step_ms": ("zif_last_step_milliseconds", "Duration of the newest engine step", "gauge"),
    "cached_tokens_total": ("zif_cached_prompt_tokens", "Prompt tokens that the prefix cache had", "counter"),
    "prompt_tokens_total": ("zif_prompt_tokens", "Prompt tokens taken in", "counter"),
    "generation_tokens_total": ("zif_generation_tokens", "Tokens generated", "counter"),
    "engine_cached_tokens_total": ("zif_engine_cached_tokens", "Of zif_engine_prompt_tokens, cached ones", "counter"),
    "engine_prompt_tokens_total": ("zif_engine_prompt_tokens", "Prompt tokens, once for each sequence", "counter"),
    "engine_generation_tokens_total": ("zif_engine_tokens", "Tokens drawn, unread ones included", "counter"),
    "requests_total": ("zif_engine_requests", "Sequences taken in by the engine", "counter"),
    "retractions_total": ("zif_retractions", "Sequences sent back to wait because KV pages ran out", "counter"),
    "faults_total": ("zif_numerical_faults", "Sequences that ended because logits were NaN or infinite", "counter"),
    "steps_total": ("zif_engine_steps", "Engine steps", "counter"),
}


class _EngineReport(Collector):
    """What engine and frontend have counted, as of the scrape."""

    def __init__(self) -> None:
        self.alive = True
        self.stats: Mapping[str, Any] = {}

    def collect(self) -> Iterable[Metric]:
        yield GaugeMetricFamily("zif_engine_up", "1 while the engine is alive", value=float(self.alive))
        for key, (name, text, kind) in _ENGINE.items():
            value = self.stats.get(key)
            if not isinstance(value, int | float):
                continue
            family = GaugeMetricFamily if kind == "gauge" else CounterMetricFamily
            yield family(name, text, value=float(value))
        finished = CounterMetricFamily("zif_choices_finished", "Choices that ended", labels=["reason"])
        for reason, count in self.stats.get("choices_finished", {}).items():
            finished.add_metric([reason], float(count))
        yield finished


class Metrics:
    """Metrics of one server, in a registry of its own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._engine = _EngineReport()
        self._registry.register(self._engine)
        self._responses = Counter(
            "zif_http_responses",
            "HTTP responses; status 499: the client left",
            ["path", "status"],
            registry=self._registry,
        )
        self._first = self._histogram("zif_time_to_first_token_seconds", "Arrival to first token", _MEDIUM)
        self._between = self._histogram("zif_inter_token_latency_seconds", "Time between a choice's tokens", _SHORT)
        self._whole = self._histogram("zif_request_duration_seconds", "Arrival to last token", _LONG)
        self._tokens = self._histogram("zif_request_generation_tokens", "Tokens made for a request", _SIZES)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, text, buckets=buckets, registry=self._registry)

    def count_response(self, path: str, status: int) -> None:
        """Count one HTTP response."""
        self._responses.labels(path, str(status)).inc()

    async def measured(self, deltas: AsyncGenerator[Delta, None]) -> AsyncGenerator[Delta, None]:
        """Pass ``deltas`` on, and take their times."""
        started = time.perf_counter()
        newest: dict[int, float] = {}
        tokens = 0
        try:
            async with aclosing(deltas):
                async for delta in deltas:
                    made = len(delta.token_ids)
                    if made:
                        now = time.perf_counter()
                        before = newest.get(delta.index)
                        if before is not None:
                            self._between.observe((now - before) / made)
                        elif not newest:
                            self._first.observe(now - started)
                        newest[delta.index] = now
                        tokens += made
                    yield delta
        finally:
            self._whole.observe(time.perf_counter() - started)
            self._tokens.observe(tokens)

    def render(self, *, alive: bool, stats: Mapping[str, Any]) -> bytes:
        """Return all metrics in Prometheus' text format, with the engine's newest ``stats``."""
        self._engine.alive = alive
        self._engine.stats = stats
        return generate_latest(self._registry)
