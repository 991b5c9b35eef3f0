"""Which requests a loaded model makes of the ops: from its attention specs and its packed weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from zif.contract.arrays import TREE_TYPES, Tree
from zif.contract.model import Model
from zif.contract.ops import OpRequest
from zif.contract.weights import PackedWeight
from zif.ops.attention import attention_request

# ops that take an attention spec; a composite's parts are asked for as well, so that each is bound
_SPEC_OPS = ("attention", "rope_and_cache", "kv_write", "paged_attention")


def model_requests(model: Model, weights: Tree, dtype: str, page_size: int, cache_dtype: str) -> Sequence[OpRequest]:
    """Every request that ``model``, the sampler included, makes once its weights are packed."""
    requests = list(model.requests(dtype))
    for spec in model.attention_specs:
        requests += [attention_request(op, dtype, spec, page_size, cache_dtype) for op in _SPEC_OPS]
        if spec.qk_norm_eps is not None:
            requests.append(OpRequest.of("rms_norm", dtype, size=spec.head_dim))
        if spec.rope is not None:
            rotary = spec.rope.rotary_dim
            requests.append(OpRequest.of("rope", dtype, head_dim=spec.head_dim, rotary_dim=rotary))
            requests.append(OpRequest.of("rope_angles", dtype, rotary_dim=rotary))
    for name, weight in _packed(weights):
        requests.append(_weight_request(name, weight, dtype))
    sampler = ("penalize", "argmax", "sample", "filter_logits", "logprobs")
    requests += [OpRequest.of(op, "float32", vocab=model.vocab_size) for op in sampler]
    return list(dict.fromkeys(requests))


def _weight_request(name: str, weight: PackedWeight, dtype: str) -> OpRequest:
    facts = {"key": weight.dispatch_key, "format": weight.format}
    if name == "embed":
        return OpRequest.of("embedding", dtype, vocab=weight.shape[0], hidden=weight.shape[1], **facts)
    *_, rows, inner = weight.shape
    return OpRequest.of("linear", dtype, out_features=rows, in_features=inner, bias="b" in weight.arrays, **facts)


def _packed(root: Tree, name: str = "") -> Iterator[tuple[str, PackedWeight]]:
    """(the innermost name, weight) of every packed weight of a tree, those within others included."""
    if isinstance(root, PackedWeight):
        yield name, root
    if isinstance(root, dict):
        for key, child in root.items():
            yield from _packed(child, key)
    elif isinstance(root, tuple | list):
        for child in root:
            yield from _packed(child, name)
    elif (kind := TREE_TYPES.get(type(root))) is not None:
        for field in kind.data:
            yield from _packed(getattr(root, field), name)
