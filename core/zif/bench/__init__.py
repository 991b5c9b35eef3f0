"""``zif bench``: throughput and latency, in this process or of a server; see docs/benchmarking.md."""

from __future__ import annotations

from zif.bench.results import Result, plot
from zif.bench.run import run
from zif.bench.workload import Workload

__all__ = ["Result", "Workload", "plot", "run"]
