"""Picks the benchmark that a workload is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zif.bench.results import Result
from zif.bench.workload import Workload

if TYPE_CHECKING:
    from zif.settings import Settings


def run(workload: Workload, settings: Settings) -> Result:
    """Run it; raises the deliberate errors of :mod:`zif.contract.errors`."""
    if workload.kind == "online":
        from zif.bench.online import online

        return online(workload, settings)
    from zif.bench import offline

    measure = {"offline": offline.throughput, "latency": offline.latency, "prefix": offline.shared_prefix}
    return measure[workload.kind](workload, settings)
