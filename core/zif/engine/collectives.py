"""The ops of a model whose layers several ranks share: bound kernels, with collectives around a few of them.

As in Megatron-LM (Shoeybi et al. 2019) a layer has two sums over ranks: that of attention's output and
that of the MLP's. A linear split by rows leaves its sum to whatever takes its result: a kernel that takes
``PARTIAL`` reduces it itself, any other gets it reduced. A sum of two partial sums is reduced once.

Kernels that call other ops were bound to the plain ones and keep them: within a rank nothing is partial.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from zif.contract.arrays import Array
from zif.contract.binding import Bound, KernelChoice, bind
from zif.contract.comm import PARTIAL, Communicator, Partial
from zif.contract.experts import ClampedGate
from zif.contract.kernels import KernelSet
from zif.contract.opspec import OpRequest
from zif.contract.optable import Ops
from zif.contract.step import Step
from zif.contract.weights import PackedWeight


def bind_ranks(
    requests: Iterable[OpRequest],
    providers: Sequence[KernelSet],
    comm: Communicator,
    vocab: int,
    pins: Mapping[str, str] | None = None,
) -> Bound:
    """Bind ops as a model calls them on each rank of ``comm``; of one rank alone, as :func:`zif.contract.binding.bind`.

    ``vocab`` is the whole vocabulary's size.
    """
    if comm.size == 1:
        return bind(requests, providers, pins)
    bound = bind(requests, providers, pins, {PARTIAL: lambda partial: comm.all_reduce(partial.addend)})
    made, around = Ops(), Collectives(bound.ops, comm, vocab, bound.choices)
    vars(made).update(vars(bound.ops))
    for name in vars(Collectives):
        if name in vars(bound.ops):
            setattr(made, name, getattr(around, name))
    return replace(bound, ops=made)


class Collectives:
    """Each method is the op of its name (:mod:`zif.contract.ops`), over all ranks."""

    def __init__(self, ops: Ops, comm: Communicator, vocab: int, choices: Sequence[KernelChoice]) -> None:
        self._ops = ops
        self._comm = comm
        self._vocab = vocab
        summed = [choice for choice in choices if choice.request.op in ("linear", "moe")]
        self._givers = {form.kind: choice for choice in summed for form in choice.kernel.gives}
        self._forms = tuple(self._givers)

    def embedding(self, ids: Array, w: PackedWeight, step: Step | None = None) -> Array:
        """Each rank looks up the ids that it has rows of; the others' are zeros in the sum."""
        if w.split is None:
            return self._ops.embedding(ids, w, step)
        rows = w.shape[0]
        at = ids - self._comm.rank * rows
        here = (at >= 0) & (at < rows)
        x = self._ops.embedding(self._ops.where(here, at, 0), w, step)
        return self._comm.all_reduce(self._ops.where(here[:, None], x, 0))

    def linear(self, x: Array, w: PackedWeight, step: Step | None = None) -> Any:
        """Of rows a partial sum, of columns this rank's columns, of the vocabulary all columns."""
        y = self._ops.linear(x, w, step)
        if w.split == "rows":
            return self._partial(y)
        if w.split == "vocab":
            return self._gathered(y)
        return y

    def logits(self, x: Array, w: PackedWeight, step: Step | None = None) -> Array:
        """Of the vocabulary all columns."""
        y = self._ops.logits(x, w, step)
        return self._gathered(y) if w.split == "vocab" else y

    def moe(
        self,
        x: Array,
        weights: Array,
        experts: Array,
        w: PackedWeight,
        kind: str,
        step: Step | None = None,
        clamped: ClampedGate | None = None,
    ) -> Any:
        """Every rank has a share of each expert's inner units."""
        y = self._ops.moe(x, weights, experts, w, kind, step, clamped)
        return y if w.split is None else self._partial(y)

    def add(self, x: Any, residual: Any) -> Any:
        """Of two partial sums a partial sum."""
        if isinstance(x, Partial) and isinstance(residual, Partial):
            return Partial(self._ops.add(x.addend, residual.addend))
        return self._ops.add(x, residual)

    def _partial(self, y: Any) -> Partial:
        """The rank's addend ``y``. Raises PluginError where it is no Array: a sum over ranks is of Arrays."""
        if isinstance(y, self._forms):
            giver = self._givers[type(y)]
            what = f"gave a {type(y).__name__}, not an Array, of a weight that ranks share (its `split` is not None)"
            raise giver.kernel.fault(what, giver.request)
        return Partial(y)

    def _gathered(self, y: Array) -> Array:
        """[R, vocab] of each rank's [R, ceil(vocab / ranks)]; the last ranks' may be padded."""
        gathered = self._comm.all_gather(y)
        if gathered.shape[-1] == self._vocab:
            return gathered
        return self._ops.concat([gathered[:, : self._vocab]])  # kernels read rows that lie one behind the other
