"""A backend of numpy alone, in float64: every op is its specification."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np

from zif.contract.arrays import Tree
from zif.contract.cache import CacheFormat
from zif.contract.formats import plain_formats
from zif.contract.kernel import Kernel, KernelSet
from zif.contract.ops import op_specs
from zif.contract.weights import EmbeddingSpec, LinearSpec, LoopStack, PackedWeight, VectorSpec

Arrays = Sequence[np.ndarray[Any, Any]]


class Specifications(KernelSet):
    """The references that the ops are specified by."""

    provider = "specification"
    level = 1

    def tune(self) -> None:
        """There is nothing to choose from."""

    def kernels(self) -> Iterator[Kernel]:
        for spec in op_specs().values():
            yield Kernel(
                spec.name, spec.name, self.provider, level=self.level, module=__name__, when=None,
                maker=partial(_made, spec.reference),
            )  # fmt: skip


def _made(reference: Callable[..., Any], *_: object) -> Callable[..., Any]:
    return reference


class Float64Packer:
    """``dense`` weights in float64."""

    def linear(self, spec: LinearSpec, weights: Arrays, biases: Arrays, dtype: str) -> PackedWeight:
        arrays = {"w": np.concatenate(weights).astype(np.float64)}
        if biases:
            arrays["b"] = np.concatenate(biases).astype(np.float64)
        return PackedWeight(arrays, "dense", (spec.rows, spec.in_features))

    def embedding(self, spec: EmbeddingSpec, table: np.ndarray[Any, Any], dtype: str) -> PackedWeight:
        return PackedWeight({"w": table.astype(np.float64)}, "dense", (spec.vocab, spec.hidden))

    def tied(self, spec: LinearSpec, embedding: PackedWeight) -> PackedWeight:
        return embedding

    def vector(self, spec: VectorSpec, value: np.ndarray[Any, Any], dtype: str) -> Any:
        return value.astype(np.float64)

    def stack(self, layers: Sequence[Tree]) -> LoopStack:
        return LoopStack(list(layers))


class OracleBackend:
    """As much of a backend as the driver asks for."""

    packer = Float64Packer()
    runtime = SimpleNamespace(put=lambda host: host, zeros=lambda spec: np.zeros(spec.shape))

    def kernels(self) -> Sequence[KernelSet]:
        return (Specifications(),)

    def cache_formats(self) -> Sequence[CacheFormat]:
        return plain_formats("float32")
