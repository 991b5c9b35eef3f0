"""Which requests a loaded model makes of the ops: from its attention specs and its packed weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from zif.contract.arrays import TREE_TYPES, Tree
from zif.contract.model import Model
from zif.contract.ops.attention import attention_request
from zif.contract.ops.latent import head_linear_request
from zif.contract.ops.moe import moe_request
from zif.contract.opspec import OpRequest
from zif.contract.weights import (
    EmbeddingSpec,
    ExpertsSpec,
    HeadsSpec,
    LinearSpec,
    PackedWeight,
    RepeatedSpec,
    VectorSpec,
    WeightSpec,
)

# ops that take an attention spec; a composite's parts are asked for as well, so that each is bound
_PAGED_OPS = ("attention", "rope_and_cache", "kv_write", "paged_attention")
_SPECS = (LinearSpec, EmbeddingSpec, VectorSpec, ExpertsSpec, HeadsSpec)
_LATENT_OPS = ("latent_attention", "latent_write", "absorbed_attention")


def model_requests(model: Model, weights: Tree, dtype: str, page_size: int, cache_dtype: str) -> Sequence[OpRequest]:
    """Every request that ``model``, the sampler included, makes once its weights are packed."""
    requests = list(model.requests(dtype))
    latent = {group.name for group in model.cache_groups if group.kind == "latent"}
    for spec in model.attention_specs:
        ops = _LATENT_OPS if spec.group in latent else _PAGED_OPS
        requests += [attention_request(op, dtype, spec, page_size, cache_dtype) for op in ops]
        if spec.qk_norm_eps is not None:
            requests.append(OpRequest.of("rms_norm", dtype, size=spec.head_dim))
        if spec.rope is not None:
            rotary = spec.rope.rotary_dim
            requests.append(OpRequest.of("rope", dtype, head_dim=spec.head_dim, rotary_dim=rotary))
            requests.append(OpRequest.of("rope_angles", dtype, rotary_dim=rotary))
    specs: dict[str, Any] = {}
    for name, spec in _leaves(model.weights(), _SPECS):
        other = specs.setdefault(name, spec)
        assert type(other) is type(spec), f"weights named {name!r} are {type(other).__name__} and {type(spec).__name__}"
    for name, weight in _leaves(weights, (PackedWeight,)):
        requests += _weight_requests(specs[name], weight, dtype)
    requests += [OpRequest.of(op, dtype) for op in ("decode_inputs", "mixed_inputs")]
    sampler = ("penalize", "argmax", "sample", "filter_logits", "sample_rows", "logprobs")
    requests += [OpRequest.of(op, "float32", vocab=model.vocab_size) for op in sampler]
    return list(dict.fromkeys(requests))


def _weight_requests(spec: WeightSpec, weight: PackedWeight, dtype: str) -> Iterator[OpRequest]:
    """Those of the ops that read a weight; ``linear`` too where a composite is made of it."""
    if isinstance(spec, ExpertsSpec):
        yield moe_request(dtype, weight, spec.top_k, spec.kind)
        return
    if isinstance(spec, HeadsSpec):
        yield head_linear_request(dtype, weight)
        return
    facts = {"key": weight.dispatch_key, "format": weight.format}
    rows, inner = weight.shape
    if isinstance(spec, EmbeddingSpec):
        yield OpRequest.of("embedding", dtype, vocab=rows, hidden=inner, **facts)
        return
    facts |= {"out_features": rows, "in_features": inner, "bias": "b" in weight.arrays}
    yield OpRequest.of("linear", dtype, **facts)
    if isinstance(spec, LinearSpec) and spec.split == "vocab":
        yield OpRequest.of("logits", dtype, **facts)
    if isinstance(spec, LinearSpec) and spec.gate is not None:
        yield OpRequest.of("gated_linear", dtype, kind=spec.gate, **facts)


def _leaves(root: Tree, leaves: tuple[type, ...], name: str = "") -> Iterator[tuple[str, Any]]:
    """(the innermost dict's key, value) of everything of the types ``leaves`` in a tree.

    That key is what a weight's spec and what became of it have in common, whatever a backend made of
    the layers around it. A weight that another wraps goes by the other's name.
    """
    if isinstance(root, leaves):
        yield name, root
    if isinstance(root, PackedWeight):
        for child in root.arrays.values():
            yield from _leaves(child, leaves, name)
    elif isinstance(root, RepeatedSpec):
        yield from _leaves(list(root.copies), leaves, name)
    elif isinstance(root, dict):
        for key, child in root.items():
            yield from _leaves(child, leaves, key)
    elif isinstance(root, tuple | list):
        for child in root:
            yield from _leaves(child, leaves, name)
    elif (kind := TREE_TYPES.get(type(root))) is not None:
        for field in kind.data:
            yield from _leaves(getattr(root, field), leaves, name)
