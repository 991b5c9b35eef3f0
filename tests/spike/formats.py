"""Two weight formats that core does not know, each with a packer and the kernels of an extension."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from zif.contract.kernels import KernelSet, kernel
from zif.contract.opspec import OpRequest
from zif.contract.optable import Ops
from zif.contract.packer import HostTensors
from zif.contract.weights import LinearSpec, PackedWeight

Chosen = Callable[[str], bool]
"""Whether the linear with this first tensor name gets the format."""


class Wrapper:
    """A packer before another one, whose other methods it passes on."""

    def __init__(self, inner: Any, runtime: Any, chosen: Chosen) -> None:
        self._inner, self._runtime, self._chosen = inner, runtime, chosen

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class Int8Packer(Wrapper):
    """``int8``: ``q`` [out, in] int8, and ``scale`` [out] float32 a row."""

    def linear(self, spec: LinearSpec, weights: HostTensors, biases: HostTensors, dtype: str) -> PackedWeight:
        if not self._chosen(spec.names[0]):
            packed: PackedWeight = self._inner.linear(spec, weights, biases, dtype)
            return packed
        w = np.concatenate(weights).astype(np.float32)
        scale = np.abs(w).max(1) / np.float32(127)
        q = np.round(w / scale[:, None]).astype(np.int8)
        arrays = {"scale": self._runtime.put(scale), "q": self._runtime.put(q)}
        return PackedWeight(arrays, "int8", (spec.rows, spec.in_features))


class LoraPacker(Wrapper):
    """``lora``: any ``base``, with ``a`` [adapters, rank, in] and ``b`` [adapters, out, rank] beside it."""

    def linear(self, spec: LinearSpec, weights: HostTensors, biases: HostTensors, dtype: str) -> PackedWeight:
        base: PackedWeight = self._inner.linear(spec, weights, biases, dtype)
        if not self._chosen(spec.names[0]):
            return base
        rng = np.random.default_rng(len(spec.names[0]) + spec.rows)
        a = rng.standard_normal((2, 3, spec.in_features)).astype(np.float32) * spec.in_features**-0.5
        b = rng.standard_normal((2, spec.rows, 3)).astype(np.float32)
        arrays = {"base": base, "a": self._runtime.put(a), "b": self._runtime.put(b)}
        return PackedWeight(arrays, "lora", base.shape)


def _format(name: str) -> Callable[[Any, OpRequest], str | None]:
    return lambda _, request: None if request["format"] == name else f"reads {name}, not {request['format']}"


class Int8(KernelSet):
    """Linears over ``int8``. ``einsum`` is the framework's."""

    provider = "int8_extension"
    level = 1

    def __init__(self, einsum: Callable[..., Any]) -> None:
        self._einsum = einsum

    @kernel("linear", when=_format("int8"))
    def linear(self, x: Any, w: PackedWeight, step: Any = None) -> Any:
        return self._einsum("ti,oi->to", x, w.arrays["q"] * w.arrays["scale"][:, None])


class Lora(KernelSet):
    """Linears with an adapter a token: ``step.inputs["adapter"]`` [T] int32, -1 for none."""

    provider = "lora_extension"
    level = 1

    def __init__(self, einsum: Callable[..., Any]) -> None:
        self._einsum = einsum

    @kernel("linear", when=_format("lora"), makes=True)
    def linear(self, request: OpRequest, ops: Ops) -> Any:
        def run(x: Any, w: PackedWeight, step: Any = None) -> Any:
            base = ops.linear(x, w.arrays["base"], step)
            adapter = step.inputs["adapter"]
            index = ops.where(adapter < 0, 0, adapter)
            low = self._einsum("ti,tri->tr", x, w.arrays["a"][index])
            delta = self._einsum("tr,tor->to", low, w.arrays["b"][index])
            # not base + 0: that would turn a -0 into 0, and another row's bits with it
            return ops.where((adapter < 0)[:, None], base, base + delta)

        return run
