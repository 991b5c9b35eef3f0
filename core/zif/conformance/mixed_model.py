"""A family whose layers differ in more than their attention: Llama with experts in some layers.

``layers`` of its config spells them: D dense, S sparse, and lower case with a sliding window. So DeepSeek's leading
dense layers ("DSSSS") and Llama 4's interleaved ones ("dSdS") are patterns of one file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from zif.contract.arrays import Array, Tree
from zif.contract.experts import ClampedGate, RouteSpec
from zif.contract.model import divided
from zif.contract.ops.moe import route_request
from zif.contract.opspec import OpRequest
from zif.contract.optable import Ops
from zif.contract.step import Step
from zif.contract.weights import ExpertsSpec, LinearSpec, VectorSpec
from zif_models.config import Config
from zif_models.layers import LayerKind, windowed
from zif_models.llama import DEFAULTS, Llama, build_as

ARCHITECTURE = "MixedForCausalLM"
ROUTE = RouteSpec(8, 3, "sigmoid", normalize=True, scale=2.0, groups=4, top_groups=2, group_score="top2")
CLAMPED = ClampedGate(limit=1.5, alpha=1.702, offset=1.0)


@dataclass(frozen=True)
class MixedKind(LayerKind):
    """``experts``: inner units of each of the layer's, None of a dense layer."""

    experts: int | None = None

    def local(self, size: int) -> Self:
        shared = super().local(size)
        if self.experts is None:
            return shared
        return replace(shared, experts=divided(self.experts, size, "inner units of an expert"))


def build(values: Mapping[str, Any]) -> Mixed:
    """The model of a config."""
    config = Config(values, DEFAULTS)
    model = build_as(Mixed, config)
    attention, kinds = model.attention[0], []
    for letter in config.get("layers"):
        spec = windowed(attention, config.window()) if letter.islower() else attention
        kinds.append(MixedKind(spec, config.integer("moe_intermediate_size") if letter in "sS" else None))
    mixed = replace(model, kinds=tuple(kinds))
    assert isinstance(mixed, Mixed)
    return mixed


class Mixed(Llama):
    """Llama, and experts where a layer's kind has them, with stacked tensors and biases as gpt-oss has them."""

    def mlp_weights(self, name: str, kind: LayerKind) -> dict[str, Tree]:
        assert isinstance(kind, MixedKind)
        if kind.experts is None:
            return super().mlp_weights(name, kind)
        both, down = f"{name}.experts.gate_up_proj", f"{name}.experts.down_proj"
        experts = ExpertsSpec(
            both, both, down, ROUTE.experts, self.hidden_size, kind.experts, ROUTE.top_k, clamped=CLAMPED,
            bias=(f"{both}_bias", f"{both}_bias", f"{down}_bias"), interleaved=True,
            gate_up_transposed=True, down_transposed=True,
        )  # fmt: skip
        return {
            "router": LinearSpec((f"{name}.gate.weight",), (ROUTE.experts,), self.hidden_size),
            "correction": VectorSpec(f"{name}.gate.e_score_correction_bias", (ROUTE.experts,), "float32"),
            "experts": experts,
        }

    def mlp(self, ops: Ops, w: Tree, x: Array, step: Step, kind: LayerKind) -> Array:
        if "experts" not in w:
            return super().mlp(ops, w, x, step, kind)
        weights, experts = ops.route(ops.linear(x, w["router"], step), ROUTE, w["correction"])
        return ops.moe(x, weights, experts, w["experts"], "silu", step, CLAMPED)

    def requests(self, dtype: str) -> Sequence[OpRequest]:
        return [*super().requests(dtype), route_request(dtype, ROUTE, bias=True)]
