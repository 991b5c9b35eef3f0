"""Calls of Triton's kernels on conformance cases, as tensors on the CPU."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from zif.conformance import paging
from zif.conformance.compare import difference
from zif.conformance.requests import FLOAT32_ARGUMENTS, actual_request
from zif.contract.arrays import tree_leaves, tree_map
from zif.contract.formats import EIGHT_BITS, plain_dtype
from zif.contract.kernels import Kernel
from zif.contract.ops import op_specs
from zif.contract.ops.draw import numpy_dtype
from zif.contract.opspec import OpCase, OpRequest
from zif.contract.optable import Ops
from zif.portable.triton import Machine, TritonKernels
from zif.reference.torch.runtime import TorchRuntime, to_numpy

RUNTIME = TorchRuntime("cpu")
KERNELS = TritonKernels(Machine(processors=8, shared_bytes=32768, cache_dtypes=("float8_e4m3fn", "float8_e5m2")))


def kernel_of(op: str) -> Kernel:
    return next(kernel for kernel in KERNELS.kernels() if kernel.op == op)


def cases(op: str, dtype: str) -> Iterator[OpCase]:
    generator = op_specs()[op].cases
    assert generator is not None
    yield from generator(np.random.default_rng(zlib.crc32(f"{op} {dtype}".encode())), dtype)


def call(op: str, request: OpRequest, **arguments: Any) -> Any:
    """The kernel's result for tensors."""
    kernel = kernel_of(op)
    assert kernel.supports(request) is None, f"{kernel} refuses {request}: {kernel.supports(request)}"
    with torch.inference_mode(), np.errstate(all="ignore"):  # a device says nothing of infinities
        return kernel.make(request, Ops())(**arguments)


def tensors(arguments: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """Host arguments as tensors, their float64 arrays in the dtype that the op takes them in."""

    def tensor(name: str) -> Any:
        kind = numpy_dtype("float32" if name in FLOAT32_ARGUMENTS else dtype)

        def one(leaf: Any) -> Any:
            if not isinstance(leaf, np.ndarray):
                return leaf
            return RUNTIME.put(leaf.astype(kind) if leaf.dtype == np.float64 else leaf)

        return one

    return {name: tree_map(tensor(name), value) for name, value in arguments.items()}


def faults(op: str, got: Any, expected: Any, dtype: str) -> list[str]:
    """Where results differ from the reference's by more than the op allows."""
    spec = op_specs()[op]
    found = []
    for one, other in zip(tree_leaves(got), tree_leaves(expected), strict=True):
        fault = difference(to_numpy(one), np.asarray(other), spec.tolerances[dtype])
        found += [fault] if fault else []
    return found


def narrow_faults(stored: Any, expected: Any) -> list[str]:
    """Numbers of eight bits: nearly all the same, the others neighbours (what is rounded differs in its last bits)."""
    assert stored.dtype == expected.dtype
    if not np.array_equal(np.isnan(stored), np.isnan(expected)):
        return ["written where it should not be, or not where it should"]
    real = ~np.isnan(expected)
    bits, wanted = (array[real].view(np.int8).astype(int) for array in (stored, expected))
    apart = np.abs(bits - wanted)
    apart[(np.abs(stored[real].astype(float)) < 0.02) & (np.abs(expected[real].astype(float)) < 0.02)] = 0
    found = [f"{int((apart > 1).sum())} of {apart.size} are no neighbours"] if (apart > 1).any() else []
    return found + ([f"{float((apart == 1).mean()):.1%} differ"] if (apart == 1).mean() > 0.02 else [])


def check(op: str, case: OpCase, dtype: str) -> None:
    """One call of a kernel that knows no cache, against the reference."""
    expected = op_specs()[op].reference(**case.arguments)
    got = call(op, case.request, **tensors(case.arguments, dtype))
    assert not faults(op, got, expected, dtype)


def attention_faults(case: OpCase, dtype: str, page_size: int, *, padded: bool) -> list[str]:
    """paged_attention of a case laid out anew: NaN in every slot that was not written, freed pages, a bystander."""
    rng = np.random.default_rng(0)
    arguments = dict(case.arguments)
    laid = paging.lay_out(arguments, page_size, rng, writes=False, padded=padded)
    tokens = laid.step.shape.tokens
    real = int(laid.step.num_tokens[0])
    q = np.full((tokens, *arguments["q"].shape[1:]), np.nan)
    q[:real] = arguments["q"][:real]
    arguments |= {"q": q, "cache": laid.plain(), "step": laid.step}
    with np.errstate(all="ignore"):
        expected = op_specs()["paged_attention"].reference(**arguments)
    request = actual_request(case.request, arguments).but(page_size=page_size)
    cache_dtype = plain_dtype(request)
    assert cache_dtype is not None
    typed = tensors(arguments, dtype) | {"cache": tensors({"cache": arguments["cache"]}, cache_dtype)["cache"]}
    got = call("paged_attention", request, **typed)
    return faults("paged_attention", got[:real], expected[:real], dtype)


def writer_faults(
    op: str, case: OpCase, dtype: str, *, padded: bool, cache_format: str | None = None, scale: float = 1.0
) -> list[str]:
    """A kernel that writes the cache: its other result, and every slot of the cache, those not to be written too.

    ``scale`` multiplies the values ``v``.
    """
    rng = np.random.default_rng(0)
    if scale != 1.0:
        case = replace(case, arguments={**case.arguments, "v": case.arguments["v"] * scale})
    page_size = case.request["page_size"]
    laid = paging.lay_out(case.arguments, page_size, rng, writes=True, padded=padded)
    names = op_specs()[op].parameters

    def longer(name: str, value: Any) -> Any:
        if name not in ("q", "k", "v", "angles") or value is None:
            return value
        real = value[: int(laid.step.num_tokens[0])]
        return np.concatenate([real, np.full((laid.step.shape.tokens - len(real), *value.shape[1:]), np.nan)])

    arguments = {name: longer(name, value) for name, value in case.arguments.items() if name in names}
    plain = laid.plain()
    if cache_format is not None:
        narrow = numpy_dtype(EIGHT_BITS[cache_format])
        plain = tree_map(lambda array: array.astype(narrow), plain)
    arguments |= {"cache": plain, "step": laid.step}
    with np.errstate(all="ignore"):
        expected = op_specs()[op].reference(**arguments)
    typed = tensors(arguments, dtype)
    request = actual_request(replace(case.request, op=op), arguments)
    got = call(op, request.but(page_size=page_size, cache_format=cache_format or dtype), **typed)
    found = []
    if isinstance(expected, tuple):
        real = int(laid.step.num_tokens[0])
        found += faults(op, got[0][:real], expected[0][:real], dtype)
    group = laid.spec.group
    written = (expected[1] if isinstance(expected, tuple) else expected)[group]
    tolerance = op_specs()["attention"].tolerances[dtype]
    for name, array in written.items():
        stored = to_numpy(typed["cache"][group][name])[:, 1:]
        array = array[:, 1:]  # page 0 is nobody's
        if cache_format is not None:
            found += [f"{name}: {fault}" for fault in narrow_faults(stored, array)]
            continue
        stored = stored.astype(np.float64)
        if not np.array_equal(np.isnan(stored), np.isnan(array)):
            found.append(f"{name}: written where it should not be, or not where it should")
        fault = difference(np.nan_to_num(stored), np.nan_to_num(array), tolerance)
        found += [f"{name}: {fault}"] if fault else []
    return found
