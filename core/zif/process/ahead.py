"""Compiling a model's steps for hardware that is not there, and what follows from the compiled programs."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

from zif.contract.ahead import AheadExecutable
from zif.contract.errors import InvalidSettings, OutOfMemory
from zif.engine.programs import Forward
from zif.plugins import load
from zif.plugins.selection import complete_options, parse_device_opts
from zif.process.build import build_engine

if TYPE_CHECKING:
    from pathlib import Path

    from zif.contract.ahead import AheadBackend
    from zif.engine.engine import Engine
    from zif.settings import Settings

FIGURES = (
    "gflop", "gbytes", "sent_mb", "scratch_mib", "fits", "compile_s", "roofline_ms", "tokens_per_second",
)  # fmt: skip


class Ahead:
    """A model laid out on a target: no weight is read, nothing is run. ``--tp-size`` is all of it if not given.

    Raises what building an engine raises: also OutOfMemory, where weights leave no room for a cache.
    """

    def __init__(self, settings: Settings, target: str) -> None:
        if settings.device == "auto":
            raise InvalidSettings("--device auto: name the device to compile for")
        plugin = load(settings.device)
        options = complete_options(plugin, parse_device_opts(settings.device_opt).get(plugin.name, {}))
        asked = settings.tp_size if "tp_size" in settings.model_fields_set else None
        self.backend: AheadBackend = plugin.ahead_of_time(options, target, asked)
        settings = settings.model_copy(update={"tp_size": self.backend.communicator.size})
        before = self.backend.runtime.memory()
        self._engine: Engine = build_engine(settings, progress=False, backend=self.backend, load_format="shapes")
        after = self.backend.runtime.memory()
        cache_bytes = int(self._engine.stats()["cache_bytes"])
        self.facts: dict[str, Any] = {
            "target": self.backend.target,
            "memory_bytes": before.total,
            "weight_bytes": before.free - after.free - cache_bytes,
            "cache_bytes": cache_bytes,
        }

    def steps(self, only: Sequence[str] = (), save: Path | None = None) -> Iterator[dict[str, Any]]:
        """Compile and describe the programs, one after the other; ``only`` are globs of their names.

        Figures are of one device. ``fits`` compares weights, cache and scratch with its memory; a program that the
        compiler refuses for that has ``refusal`` instead of figures. ``tokens_per_second`` is the roofline's: tokens
        of a full step over the least time that it can take.
        """
        runner, facts = self._engine.runner, self.facts
        shapes = runner.staging.shapes
        for shape in shapes.every():
            name = "decode" if shape.decode else "mixed"
            label = f"{name}-{shape.tokens}x{shape.seqs}x{shape.pages}x{shape.logits}"
            if only and not any(fnmatch.fnmatch(label, pattern) for pattern in only):
                continue
            try:
                executable = cast("AheadExecutable", runner.executable(Forward(shape, shapes.assigned(shape))))
            except OutOfMemory as error:
                yield {"program": label, **dict.fromkeys(FIGURES), "fits": False, "refusal": str(error)}
                continue
            report = executable.report
            if save is not None:
                executable.save(save / label)
            needed = facts["weight_bytes"] + facts["cache_bytes"] + report.scratch_bytes
            yield {
                "program": label,
                "gflop": report.flops / 1e9,
                "gbytes": report.bytes / 1e9,
                "sent_mb": report.sent_bytes / 1e6,
                "scratch_mib": report.scratch_bytes / 2**20,
                "fits": needed <= facts["memory_bytes"],
                "compile_s": report.compile_seconds,
                "roofline_ms": report.roofline_seconds * 1e3,
                "tokens_per_second": shape.tokens / report.roofline_seconds,
            }
