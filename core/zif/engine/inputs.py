"""Further inputs of a model's step: values from requests or another provider, checked and laid out for a step."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from zif.contract.errors import InvalidRequest
from zif.contract.model import InputSpec
from zif.contract.ops.draw import numpy_dtype
from zif.contract.step import StepShape
from zif.engine.forward import input_spec
from zif.scheduler.batch import Batch

HostArray = np.ndarray[Any, Any]
InputProvider = Callable[[InputSpec, Batch], HostArray | None]
"""Values of one input for the real tokens [num_tokens, ...] or sequences [n, ...] of a batch, or for the step
[...]; None where all are neutral."""


def from_requests(spec: InputSpec, batch: Batch) -> HostArray | None:
    """What the requests of a batch bring; a token that a request has drawn has the neutral value."""
    if spec.per == "step" or not any(spec.name in request.inputs for request in batch.requests):
        return None
    size = len(batch.requests) if spec.per == "sequence" else batch.num_tokens
    values = _neutral(spec, (size, *spec.shape))
    ends = np.cumsum(batch.counts).tolist()
    for entry, request in enumerate(batch.requests):
        given = request.inputs.get(spec.name)
        if given is None:
            continue
        if spec.per == "sequence":
            values[entry] = given
            continue
        start, count = int(batch.starts[entry]), int(batch.counts[entry])
        part = given[start : start + count]
        values[ends[entry] - count : ends[entry] - count + len(part)] = part
    return values


def staged_inputs(
    specs: Sequence[InputSpec], shape: StepShape, batch: Batch | None, provider: InputProvider
) -> dict[str, HostArray]:
    """The inputs of a step of that shape, an array each, padded with neutral values; of padding alone for None."""
    staged = {}
    for spec in specs:
        whole = _neutral(spec, input_spec(spec, shape).shape)
        values = None if batch is None else provider(spec, batch)
        if values is not None:
            where = ... if spec.per == "step" else slice(len(values))
            whole[where] = values
        staged[spec.name] = whole
    return staged


def checked_inputs(specs: Sequence[InputSpec], given: Mapping[str, Any], prompt: int) -> dict[str, HostArray]:
    """What a request with ``prompt`` prompt tokens brings, as arrays of the declared dtypes.

    Raises InvalidRequest for a name that the model does not declare, and for another shape or dtype.
    """
    by_name = {spec.name: spec for spec in specs}
    return {name: _checked(name, by_name, value, prompt) for name, value in given.items()}


def inputs_key(inputs: Mapping[str, HostArray]) -> bytes | None:
    """What a request's keys and values depend on beside its tokens; None where it brings nothing."""
    if not inputs:
        return None
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(inputs):
        digest.update(f"{name} {inputs[name].shape} ".encode())
        digest.update(np.ascontiguousarray(inputs[name]).tobytes())
    return digest.digest()


def _checked(name: str, specs: Mapping[str, InputSpec], value: Any, prompt: int) -> HostArray:
    spec = specs.get(name)
    if spec is None:
        known = ", ".join(specs) or "none"
        raise InvalidRequest(f"the model has no input {name!r}; it has {known}", "inputs")
    if spec.per == "step":
        raise InvalidRequest(f"input {name!r} is one for all requests of a step: a request cannot bring it", "inputs")
    shape = spec.shape if spec.per == "sequence" else (prompt, *spec.shape)
    array, dtype = np.asarray(value), numpy_dtype(spec.dtype)
    if array.shape != shape:
        of = "a sequence" if spec.per == "sequence" else "a prompt token"
        raise InvalidRequest(f"input {name!r} is {array.shape}, not {shape}: {spec.shape} {of}", "inputs")
    if not np.can_cast(array.dtype, dtype, "same_kind"):
        raise InvalidRequest(f"input {name!r} is {array.dtype}, not {spec.dtype}", "inputs")
    made = array.astype(dtype)
    if array.dtype.kind in "iu" and not np.array_equal(made, array):
        raise InvalidRequest(f"input {name!r} has values that {spec.dtype} cannot hold", "inputs")
    return made


def _neutral(spec: InputSpec, shape: tuple[int, ...]) -> HostArray:
    return np.full(shape, spec.neutral, numpy_dtype(spec.dtype))
