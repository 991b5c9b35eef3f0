"""Cases of attention on a backend's own cache: other pages, NaN wherever nothing was written.

A case comes with a cache in the plain layout. Here its sequences are laid out anew on shuffled pages
of a size that the backend takes, beside a *bystander*: a sequence that is cached but not in the step.
The backend's own ``kv_write`` fills its cache, which held NaN before, so that a kernel that reads
past a sequence's length, or writes where it should not, shows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from zif.contract.arrays import Array, ArraySpec, tree_map
from zif.contract.attention import AttentionSpec
from zif.contract.backend import Backend
from zif.contract.cache import CacheFormat, CacheGroup
from zif.contract.ops.draw import normal, numpy_dtype
from zif.contract.optable import Ops
from zif.contract.step import Step, StepShape

A = np.ndarray[Any, Any]
LAYERS = 2
BYSTANDER_LENGTH = 7


@dataclass(frozen=True)
class Paged:
    """A case laid out anew. Arrays are numpy, float64 where they float.

    ``history``: name -> a list, a sequence each, of [layers, length, heads, dim]. ``before``: how much of it is in the
    cache in ``layer``, the one that the op is called for; other layers have all. ``first``: the first position of each
    sequence that still has a page (later than 0 behind a window). ``tables`` [sequences + bystander, width].
    """

    spec: AttentionSpec
    page_size: int
    num_pages: int
    tables: A
    history: Mapping[str, Sequence[A]]
    first: Sequence[int]
    before: Sequence[int]
    layer: int
    step: Step

    def cached(self, layer: int) -> Sequence[int]:
        """Cached tokens of each sequence before the call, the bystander last."""
        return self.before if layer == self.layer else self.lengths

    @property
    def lengths(self) -> list[int]:
        """Tokens of each sequence, those of the step included, the bystander last."""
        return [array.shape[1] for array in self.history["k"]]

    def plain(self) -> dict[str, dict[str, A]]:
        """The cache in the references' layout, NaN where nothing is."""
        group = {}
        for name, sequences in self.history.items():
            shape = (LAYERS, self.num_pages, self.page_size, *sequences[0].shape[2:])
            array = np.full(shape, np.nan)
            for row, values in enumerate(sequences):
                for layer in range(LAYERS):
                    at = np.arange(self.first[row], self.cached(layer)[row])
                    array[layer, self.tables[row, at // self.page_size], at % self.page_size] = values[layer, at]
            group[name] = array
        return {self.spec.group: group}

    def read_back(self, cache: Mapping[str, Mapping[str, A]], stored: CacheFormat) -> dict[str, dict[str, A]]:
        """A plain cache of what the sequences wrote, as it is read back where ``stored`` stores it."""
        group = {}
        lengths = [*np.asarray(self.step.kv_lens)[: len(self.tables) - 1].tolist(), self.lengths[-1]]
        for name, array in cache[self.spec.group].items():
            group[name] = array.astype(np.float64)
            for row, length in enumerate(lengths):
                at = np.arange(self.first[row], length)
                where = (slice(None), self.tables[row, at // self.page_size], at % self.page_size)
                group[name][where] = stored.restored(group[name][where], self.page_size)
        return {self.spec.group: group}

    def everything(self, layer: int) -> Step:
        """The step that writes every cached token of a layer that has a page."""
        return ragged_step(self.spec.group, self.tables, self.first, self.cached(layer))


def page_size_for(backend: Backend, wanted: int) -> int:
    """``wanted``, or else the size that the backend likes best."""
    sizes = backend.capabilities.page_sizes
    return wanted if not sizes or wanted in sizes else sizes[0]


def lay_out(
    arguments: Mapping[str, Any], page_size: int, rng: np.random.Generator, *, writes: bool, padded: bool
) -> Paged:
    """Lay a case's sequences out on pages of ``page_size``.

    ``writes``: the op under test writes the step's tokens itself, so that only those before are
    cached in the layer that it is called for; in others there are other tokens in their place. ``padded``: with
    two sequences and as many tokens of padding, in the engine's manner.
    """
    spec, step = arguments["spec"], arguments["step"]
    plain = arguments["cache"][spec.group]
    old_size = plain["k"].shape[2]
    starts = np.asarray(step.query_starts)
    new = np.diff(starts)
    total = np.asarray(step.kv_lens)
    cached = total - new if writes else total
    history: dict[str, list[A]] = {}
    for name, array in plain.items():
        rows = []
        for row, length in enumerate(cached):
            at = np.arange(length)
            past = array[:, np.asarray(step.pages[spec.group])[row, at // old_size], at % old_size]
            rest = normal(rng, (LAYERS, int(total[row]) - int(length), *array.shape[3:]), "bfloat16")
            rows.append(np.concatenate([past, rest], 1))
        rows.append(normal(rng, (LAYERS, BYSTANDER_LENGTH, *array.shape[3:]), "bfloat16"))
        history[name] = rows
    lengths = [*(int(length) for length in total), BYSTANDER_LENGTH]
    tables, num_pages = _tables(lengths, page_size, rng)
    first = [0] * len(lengths)
    if spec.window is not None:
        for row, query in enumerate(total - new):
            dead = max(0, int(query) - spec.window + 1) // page_size
            tables[row, :dead] = 0  # behind the window: the engine has given these pages back
            first[row] = dead * page_size
    new_step = replace(step, pages={spec.group: tables[:-1]}, shape=replace(step.shape, pages=tables.shape[1]))
    return Paged(
        spec, page_size, num_pages, tables, history, first, [*map(int, cached), BYSTANDER_LENGTH],
        int(arguments["layer"]), pad(new_step, spec.group) if padded else new_step,
    )  # fmt: skip


def _tables(lengths: Sequence[int], page_size: int, rng: np.random.Generator) -> tuple[A, int]:
    needed = [-(-length // page_size) for length in lengths]
    total = sum(needed) + 3
    order = rng.permutation(np.arange(1, total))
    tables, cursor = np.zeros((len(lengths), max(needed) + 1), np.int32), 0
    for row, count in enumerate(needed):
        tables[row, :count] = order[cursor : cursor + count]
        cursor += count
    return tables, total


def ragged_step(group: str, tables: A, first: Sequence[int], last: Sequence[int]) -> Step:
    """The step whose tokens are positions [first, last) of each row of ``tables``."""
    new = [stop - start for start, stop in zip(first, last, strict=True)]
    starts = np.concatenate([[0], np.cumsum(new)]).astype(np.int32)
    tokens, seqs = int(starts[-1]), len(new)
    positions = np.concatenate([np.arange(a, b) for a, b in zip(first, last, strict=True)]).astype(np.int32)
    return Step(
        tokens=np.zeros(tokens, np.int32),
        positions=positions,
        seqs=np.repeat(np.arange(seqs), new).astype(np.int32),
        query_starts=starts,
        kv_lens=np.array(last, np.int32),
        pages={group: tables},
        num_tokens=np.array([tokens], np.int32),
        logits_at=np.maximum(starts[1:] - 1, 0),
        shape=StepShape(tokens, seqs, tables.shape[1], seqs, decode=all(count == 1 for count in new)),
    )


def pad(step: Any, group: str, extra: int = 2) -> Step:
    """``step`` with ``extra`` padding sequences and tokens, as the engine pads to a compiled shape.

    In a decode step a padding sequence has a token, of length 0; in others it has none.
    """
    shape = step.shape
    tokens, seqs = shape.tokens + extra, shape.seqs + extra

    def longer(array: A, fill: int) -> A:
        return np.concatenate([array, np.full((extra, *array.shape[1:]), fill, array.dtype)])

    if shape.decode:
        of_token, starts = np.arange(tokens, dtype=np.int32), np.arange(seqs + 1, dtype=np.int32)
    else:
        of_token = longer(step.seqs, seqs - 1)
        of_token[int(step.num_tokens[0]) :] = seqs - 1
        starts = longer(step.query_starts, int(step.query_starts[-1]))
    padded: Step = replace(
        step,
        tokens=longer(step.tokens, 0),
        positions=longer(step.positions, 0),
        seqs=of_token,
        query_starts=starts,
        kv_lens=longer(step.kv_lens, 0),
        pages={group: longer(step.pages[group], 0)},
        logits_at=longer(step.logits_at, 0),
        shape=StepShape(tokens, seqs, shape.pages, shape.logits + extra, shape.decode),
    )
    return padded


def group_of(spec: AttentionSpec, *, latent: bool) -> CacheGroup:
    """The cache group of a case."""
    kind: Any = "latent" if latent else "paged" if spec.window is None else "window"
    v_head_dim = 0 if latent else spec.v_head_dim
    return CacheGroup(spec.group, kind, LAYERS, spec.kv_heads, spec.head_dim, v_head_dim, spec.window)


def empty_cache(backend: Backend, paged: Paged, stored: CacheFormat) -> Any:
    """The backend's own cache for the case, every float of it NaN and every integer 0x7f."""
    group = group_of(paged.spec, latent="v" not in paged.history)
    arrays = stored.arrays(group, paged.page_size, paged.num_pages)
    return {group.name: {name: backend.runtime.put(unwritten(array)) for name, array in arrays.items()}}


def fill(backend: Backend, ops: Ops, paged: Paged, cache: Any, dtype: str) -> Any:
    """Write the history into ``cache`` with the backend's own kernel, both layers."""
    for layer in range(LAYERS):
        step = to_device(backend, paged.everything(layer))
        spans = [slice(start, stop) for start, stop in zip(paged.first, paged.cached(layer), strict=True)]
        rows = {
            name: backend.runtime.put(
                np.concatenate([values[layer, span] for values, span in zip(sequences, spans, strict=True)]).astype(
                    numpy_dtype(dtype)
                )
            )
            for name, sequences in paged.history.items()
        }
        cache = write(ops, rows, cache, layer, step, paged.spec)
    return cache


def write(ops: Ops, rows: Mapping[str, Array], cache: Any, layer: int, step: Step, spec: AttentionSpec) -> Any:
    """``kv_write``, or ``latent_write`` where there are no values."""
    if "v" in rows:
        return ops.kv_write(rows["k"], rows["v"], cache, layer, step, spec)
    return ops.latent_write(rows["k"][:, 0], cache, layer, step, spec)


def to_device(backend: Backend, step: Step) -> Step:
    """A numpy step as the backend's arrays."""
    moved: Step = tree_map(backend.runtime.put, step)
    return moved


def unwritten(spec: ArraySpec) -> A:
    """A cache array in which nothing was written: NaN, or 0x7f where it holds integers."""
    dtype = numpy_dtype(spec.dtype)
    if spec.dtype.startswith(("float", "bfloat")):
        return np.full(spec.shape, np.nan).astype(dtype)
    return np.full(spec.shape, 0x7F, dtype)
