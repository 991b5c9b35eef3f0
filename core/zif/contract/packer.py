"""How a backend packs a checkpoint's tensors for its kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from zif.contract.arrays import Array, Tree
from zif.contract.weights import (
    EmbeddingSpec,
    Encoded,
    ExpertsSpec,
    ExpertTensors,
    HeadsSpec,
    HostArray,
    LinearSpec,
    PackedWeight,
    VectorSpec,
)

HostTensors = Sequence[HostArray]


class Packer(Protocol):
    """From a checkpoint's tensors, decoded to host arrays, to what the backend's kernels read.

    Host arrays are [out, in] in a floating dtype (``ml_dtypes`` for bfloat16), read-only and often
    memory-mapped: copy once, to the device. ``dtype`` is the one the model computes in.
    """

    def linear(self, spec: LinearSpec, weights: HostTensors, biases: HostTensors, dtype: str) -> PackedWeight: ...

    def encoded(
        self, spec: LinearSpec, weights: Sequence[Encoded], biases: HostTensors, dtype: str
    ) -> PackedWeight | None:
        """A linear whose tensors are stored in a format that this packer has kernels for.

        None, as here, has them decoded for ``linear``. It is asked where one rank has the whole weight, and all of
        its tensors are encoded.
        """
        return None

    def embedding(self, spec: EmbeddingSpec, table: HostArray, dtype: str) -> PackedWeight: ...

    def tied(self, spec: LinearSpec, embedding: PackedWeight) -> PackedWeight:
        """The head that shares ``embedding``'s storage."""
        ...

    def vector(self, spec: VectorSpec, value: HostArray, dtype: str) -> Array: ...

    def experts(self, spec: ExpertsSpec, tensors: ExpertTensors, dtype: str) -> PackedWeight:
        """``dense``: ``gate_up`` [experts, 2 size, hidden] and ``down`` [experts, hidden, size], and of biases
        ``gate_up_bias`` [experts, 2 size] and ``down_bias`` [experts, hidden].

        Experts' arrays may be made when they are asked for, so that no more than one is there: read each once.
        """
        ...

    def heads(self, spec: HeadsSpec, weight: HostArray, dtype: str) -> PackedWeight:
        """``weight`` is what ``spec.cut`` gives, [heads, out, in], and likely a strided view."""
        ...

    def stack(self, layers: Sequence[Tree]) -> Tree:
        """Packed trees of layers as the one tree that ``ops.repeat`` runs over.

        The layers' specs are alike, yet their packing may differ: a few may be left unquantised.
        Consumes ``layers``: their arrays may be given back as soon as they are stacked.
        """
        ...
