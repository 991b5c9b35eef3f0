"""Which requests a loaded model makes of the ops: from its attention specs and its packed weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from zif.cache.groups import Geometry
from zif.contract.arrays import Tree
from zif.contract.model import Model
from zif.contract.ops.attention import attention_request
from zif.contract.opspec import OpRequest
from zif.contract.weights import WeightSpec
from zif.engine.store import StoredGroup

_PAGED_OPS = ("attention",)
_LATENT_OPS = ("latent_attention", "latent_write")


def model_requests(model: Model, weights: Tree, dtype: str, stored: Sequence[StoredGroup]) -> Sequence[OpRequest]:
    """Every request that ``model``, the sampler included, makes once its weights are packed.

    ``stored`` are its cache groups.
    """
    requests = list(model.requests(dtype))
    groups = {group.name: group for group in stored}
    base = Geometry(stored).base
    for spec in model.attention_specs:
        own = groups[spec.group]
        ops = _LATENT_OPS if own.group.kind == "latent" else _PAGED_OPS
        requests += [
            attention_request(op, dtype, spec, own.page_size, own.format.name, own.format.layout, own.page_size // base)
            for op in ops
        ]
        if spec.rope is not None:
            requests.append(OpRequest.of("rope_angles", dtype, rotary_dim=spec.rope.rotary_dim))
    requests += tree_requests(model.weights(), weights, dtype)
    requests += [OpRequest.of(op, dtype) for op in ("decode_inputs", "mixed_inputs")]
    sampler = ("penalize", "argmax", "sample", "mask_logits", "filter_logits", "sample_rows", "logprobs")
    requests += [OpRequest.of(op, "float32", vocab=model.vocab_size) for op in sampler]
    return list(dict.fromkeys(requests))


def tree_requests(specs: Tree, packed: Tree, dtype: str) -> Iterator[OpRequest]:
    """Those of the ops that read what a tree of weight specs was packed to."""
    if isinstance(specs, WeightSpec):
        yield from specs.requests(packed, dtype)
        return
    pairs = (
        [(spec, packed[key]) for key, spec in specs.items()]
        if isinstance(specs, dict)
        else zip(specs, packed, strict=True)
    )
    for spec, weight in pairs:
        yield from tree_requests(spec, weight, dtype)
