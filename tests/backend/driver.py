"""Runs a model's functions on steps built by hand: no engine, no scheduler, no executables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from zif.contract.arrays import tree_map
from zif.contract.binding import bind
from zif.contract.model import Model
from zif.contract.step import Step, StepShape
from zif.engine.requests import model_requests
from zif.engine.store import stored_groups
from zif.reference.torch.backend import TorchBackend
from zif.reference.torch.runtime import TorchRuntime, to_numpy
from zif.weights import Checkpoint, LoadFormat, load_weights
from zif_models import resolve

HostArray = np.ndarray[Any, Any]


def model_of(config: Mapping[str, Any], context_length: int | None = None) -> Model:
    """The model that a config.json describes, to be served with ``context_length``."""
    served = {} if context_length is None else {"served_context_length": context_length}
    return resolve(config).build({**config, **served})


class Driver:
    """A model on a device, with a page table of its own: sequences grow by the tokens that are fed.

    Pages are handed out in random order, each group's apart, and start as NaN.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        backend: Any = None,
        page_size: int = 16,
        pages: int = 160,
        dtype: str = "float32",
        context_length: int | None = None,
        load_format: LoadFormat = "auto",
    ) -> None:
        self.backend = backend or TorchBackend(TorchRuntime("cpu"))
        self.model = model_of(checkpoint.config, context_length)
        self.weights = load_weights(
            self.model, checkpoint, self.backend.packer, dtype, progress=False, load_format=load_format
        )
        stored = stored_groups(self.model.cache_groups, self.backend.cache_formats(), dtype, page_size, "driver")
        requests = model_requests(self.model, self.weights, dtype, stored)
        self.ops = bind(requests, self.backend.kernels()).ops
        self.page_size = page_size
        rng = np.random.default_rng(7)
        self.cache: Any = {}
        self._free = {}
        for group in stored:
            specs = group.format.arrays(group.group, page_size, pages)
            arrays = {name: self.backend.runtime.zeros(spec) for name, spec in specs.items()}
            self.cache[group.name] = {name: array + float("nan") for name, array in arrays.items()}
            self._free[group.name] = list(rng.permutation(np.arange(1, pages)))
        self._tables: dict[int, dict[str, list[int]]] = {}
        self._lengths: dict[int, int] = {}

    def feed(
        self, new: Mapping[int, Sequence[int]], *, pad: int = 0, layers: Callable[..., Any] | None = None
    ) -> dict[int, HostArray]:
        """Append tokens to sequences in one step: logits [len(tokens), vocab] of each.

        ``pad`` tokens of padding, of an empty sequence, follow. ``layers`` replaces the model's own.
        """
        step = tree_map(self.backend.runtime.put, self._step(new, pad))
        x = self.model.embed(self.ops, self.weights, step)
        run = layers or self.model.layers
        x, self.cache = run(self.ops, self.weights, x, self.cache, step)
        logits = to_host(self.model.head(self.ops, self.weights, x[step.logits_at], step))
        ends = np.cumsum([len(tokens) for tokens in new.values()])
        return dict(zip(new, np.split(logits, ends)[: len(new)], strict=True))

    def _step(self, new: Mapping[int, Sequence[int]], pad: int) -> Step:
        for sequence, tokens in new.items():
            self._grow(sequence, len(tokens))
        counts = [len(tokens) for tokens in new.values()] + ([0] if pad else [])
        total, seqs = sum(counts), len(counts)
        starts = np.concatenate([[0], np.cumsum(counts)])
        lens = [self._lengths[sequence] for sequence in new] + ([0] if pad else [])
        positions = np.concatenate([np.arange(end - n, end) for end, n in zip(lens, counts, strict=True)])
        width = max(len(table) for row in self._tables.values() for table in row.values())
        pages = {name: np.zeros((seqs, width), np.int32) for name in self._free}
        for row, sequence in enumerate(new):
            for name, table in self._tables[sequence].items():
                pages[name][row, : len(table)] = table
        arrays: dict[str, Any] = {
            "tokens": [token for tokens in new.values() for token in tokens] + [0] * pad,
            "positions": [*positions, *[0] * pad],
            "seqs": [*np.repeat(np.arange(seqs), counts), *[seqs - 1] * pad],
            "query_starts": starts,
            "kv_lens": lens,
            "num_tokens": [total],
            "logits_at": np.arange(total),
        }
        host = {name: np.asarray(value, np.int32) for name, value in arrays.items()}
        shape = StepShape(total + pad, seqs, width, total, decode=not pad and set(counts) == {1})
        return Step(**host, pages=pages, shape=shape)  # type: ignore[arg-type]

    def _grow(self, sequence: int, count: int) -> None:
        length = self._lengths[sequence] = self._lengths.get(sequence, 0) + count
        tables = self._tables.setdefault(sequence, {name: [] for name in self._free})
        for name, table in tables.items():
            while len(table) * self.page_size < length:
                table.append(self._free[name].pop())


def to_host(array: Any) -> HostArray:
    """A host copy of an array, whichever framework's."""
    import torch

    return to_numpy(array) if isinstance(array, torch.Tensor) else np.array(array)
