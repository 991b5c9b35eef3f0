"""The op requests that a conformance case stands for, on a backend that packs weights its own way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from zif.contract.attention import AttentionSpec
from zif.contract.ops import op_specs
from zif.contract.ops.attention import attention_request
from zif.contract.opspec import OpRequest, OpSpec
from zif.contract.weights import PackedWeight, head_linear_request

FLOAT32_ARGUMENTS = frozenset(
    {"angles", "logits", "temperature", "top_p", "min_p", "repetition", "presence", "frequency", "weights", "bias"}
)
"""Arguments of ops that are float32 whatever the activations' dtype."""


def result_dtype(spec: OpSpec, dtype: str) -> str:
    """The dtype of an op's floating results: float32 for logits, the sampler's and angles, else the activations'."""
    return "float32" if spec.name in ("rope_angles", "logits") or "logits" in spec.parameters else dtype


def actual_request(request: OpRequest, arguments: Mapping[str, Any]) -> OpRequest:
    """``request`` with the weight formats that the backend really has."""
    facts = dict(request.facts)
    dispatch = op_specs()[request.op].dispatch
    for name, value in arguments.items():
        if isinstance(value, PackedWeight):
            if name == dispatch:
                facts |= {"key": value.dispatch_key, "format": value.format}
            elif f"{name}_format" in facts:
                facts[f"{name}_format"] = value.format
    return replace(request, facts=tuple(sorted(facts.items(), key=lambda fact: fact[0])))


def requests_around(request: OpRequest, arguments: Mapping[str, Any]) -> list[OpRequest]:
    """``request``, and those of the ops that fill and read its cache, or read its further weights."""
    wanted, specs = [request], op_specs()
    attention = arguments.get("spec")
    if isinstance(attention, AttentionSpec):
        cache = request["page_size"], request["cache_format"], request["cache_layout"]
        wanted += [
            attention_request(name, request.dtype, attention, *cache)
            for name, spec in specs.items()
            if spec.dispatch == "spec" and spec.profile == specs[request.op].profile and name != request.op
        ]
    if specs[request.op].profile == "mla":
        wanted += [
            head_linear_request(request.dtype, value) for value in arguments.values() if isinstance(value, PackedWeight)
        ]
    return list(dict.fromkeys(wanted))
