"""Phi-3, 3.5 and 4 (Abdin et al. 2024): Llama whose q, k, v and whose gate, up are one tensor each."""

from __future__ import annotations

from dataclasses import replace

from zif.contract import Model, Tree
from zif_models import llama
from zif_models.config import Config, Values
from zif_models.layers import LayerKind, windowed
from zif_models.rope import rope_parameters

DEFAULTS: Values = {
    **llama.DEFAULTS,
    "max_position_embeddings": 4096,
    "original_max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "sliding_window": None,
}


def build(values: Values) -> Model:
    """The model that a ``config.json`` describes."""
    config = Config(values, DEFAULTS)
    rope = rope_parameters(config)
    if rope["rope_type"] in ("su", "yarn"):  # in Phi-3 alone, earlier names of LongRoPE
        rope["rope_type"] = "longrope"
    model = llama.build_as(Phi3, config.but(rope_scaling=rope))
    return model.with_attention([windowed(spec, config.window()) for spec in model.attention])


class Phi3(llama.Llama):
    """Llama with fused tensors in its checkpoints: a linear of several parts with one name."""

    def layer_weights(self, name: str, kind: LayerKind) -> dict[str, Tree]:
        w = super().layer_weights(name, kind)
        return {
            **w,
            "qkv": replace(w["qkv"], names=(f"{name}.self_attn.qkv_proj.weight",)),
            "gate_up": replace(w["gate_up"], names=(f"{name}.mlp.gate_up_proj.weight",)),
        }
