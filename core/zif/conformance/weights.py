"""A case's plain weights, packed by the backend as core would when it loads a model."""

from __future__ import annotations

from typing import Any

import numpy as np

from zif.contract.backend import Backend
from zif.contract.ops.draw import numpy_dtype
from zif.contract.opspec import OpRequest
from zif.contract.weights import EmbeddingSpec, ExpertsSpec, ExpertTensors, HeadsSpec, LinearSpec, PackedWeight

A = np.ndarray[Any, Any]


def pack(backend: Backend, request: OpRequest, weight: PackedWeight) -> PackedWeight:
    """``weight`` (dense, float64) through the backend's packer; a linear comes in two parts, as q, k and v would."""
    op, dtype = request.op, request.dtype
    host = {name: _read_only(array, dtype) for name, array in weight.arrays.items()}
    if op == "embedding":
        return backend.packer.embedding(EmbeddingSpec("w", *_two(weight.shape)), host["w"], dtype)
    if op in ("linear", "logits", "gated_linear"):
        rows, inner = _two(weight.shape)
        cut = rows // 2 if op == "gated_linear" else rows // 3
        spec = LinearSpec(
            ("a", "b"),
            (cut, rows - cut),
            inner,
            ("c", "d") if "b" in host else (),
            gate=request["kind"] if op == "gated_linear" else None,
        )
        biases = [host["b"][:cut], host["b"][cut:]] if "b" in host else []
        return backend.packer.linear(spec, [host["w"][:cut], host["w"][cut:]], biases, dtype)
    if op == "moe":
        experts, tensors = _experts(request, weight.shape, host)
        return backend.packer.experts(experts, tensors, dtype)
    heads, rows, inner = weight.shape
    return backend.packer.heads(HeadsSpec("w", heads, rows, inner, 0, rows), host["w"], dtype)


def _experts(request: OpRequest, shape: tuple[int, ...], host: dict[str, A]) -> tuple[ExpertsSpec, ExpertTensors]:
    """Experts in a tensor each, as most checkpoints have them."""
    experts, size, hidden = shape
    gates, ups = [part[:size] for part in host["gate_up"]], [part[size:] for part in host["gate_up"]]
    tensors = ExpertTensors(gates, ups, list(host["down"]))
    names = ("gb{e}", "ub{e}", "db{e}") if request["bias"] else ()
    if names:
        both = host["gate_up_bias"]
        biases = [part[:size] for part in both], [part[size:] for part in both], list(host["down_bias"])
        tensors = ExpertTensors(gates, ups, tensors.downs, *biases)
    top_k, kind, clamped = request["top_k"], request["kind"], request["clamped"]
    return ExpertsSpec("g{e}", "u{e}", "d{e}", experts, hidden, size, top_k, kind, clamped, names), tensors


def put_dense(backend: Backend, weight: PackedWeight, dtype: str) -> PackedWeight:
    """``weight`` in the format ``dense``, for kernels that read it although the packer makes another."""
    arrays = {name: backend.runtime.put(_read_only(array, dtype)) for name, array in weight.arrays.items()}
    return PackedWeight(arrays, "dense", weight.shape, weight.facts)


def _two(shape: tuple[int, ...]) -> tuple[int, int]:
    rows, inner = shape
    return rows, inner


def _read_only(array: Any, dtype: str) -> A:
    """As a checkpoint's memory-mapped tensor comes."""
    host: A = np.asarray(array).astype(numpy_dtype(dtype))
    host.flags.writeable = False
    return host
