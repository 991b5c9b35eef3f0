"""Llama 2 and 3 (Touvron et al. 2023, Grattafiori et al. 2024).

Pre-norm layers of grouped-query attention with rotary embeddings, then a gated MLP. Families that
differ from it in facts alone (a bias, a window, norms of q and k) build this class too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from zif.contract import Array, AttentionSpec, Ops, Step, Tree, VectorSpec
from zif_models.config import Config, Values
from zif_models.layers import Carry, Decoder, LayerKind, fused, reducing, split_heads
from zif_models.rope import rope_spec

DEFAULTS: Values = {
    "hidden_act": "silu",
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
}


def build(values: Values) -> Llama:
    """The model that a ``config.json`` describes."""
    return build_as(Llama, Config(values, DEFAULTS))


def build_as(kind: type[Llama], config: Config) -> Llama:
    """As ``build``, for the families whose configs are read alike."""
    (heads, kv_heads), head_dim = config.heads(), config.head_dim()
    attention = AttentionSpec(
        group="full",
        q_heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        v_head_dim=head_dim,
        scale=head_dim**-0.5,
        rope=rope_spec(config),
    )
    return kind(
        vocab_size=config.integer("vocab_size"),
        hidden_size=config.integer("hidden_size"),
        intermediate_size=config.integer("intermediate_size"),
        context_length=config.context_length(),
        kinds=(LayerKind(attention),) * config.integer("num_hidden_layers"),
        eps=config.positive("rms_norm_eps"),
        activation=config.activation(),
        tied=config.flag("tie_word_embeddings"),
        qkv_bias=config.flag("attention_bias"),
        o_bias=config.flag("attention_bias"),
        mlp_bias=config.flag("mlp_bias"),
    )


@dataclass(frozen=True, kw_only=True)
class Llama(Decoder):
    """Llama, with the biases that some of its descendants have."""

    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False

    def layer_weights(self, name: str, kind: LayerKind) -> dict[str, Tree]:
        spec, hidden = kind.attention, self.hidden_size
        q, k, v = spec.q_heads * spec.head_dim, spec.kv_heads * spec.head_dim, spec.kv_heads * spec.v_head_dim
        w: dict[str, Tree] = {
            "input_norm": VectorSpec(f"{name}.input_layernorm.weight", (hidden,)),
            "qkv": fused(f"{name}.self_attn", {"q_proj": q, "k_proj": k, "v_proj": v}, hidden, self.qkv_bias),
            "o": reducing(f"{name}.self_attn.o_proj", hidden, q, self.o_bias),
            "mlp_norm": VectorSpec(f"{name}.post_attention_layernorm.weight", (hidden,)),
            **self.mlp_weights(f"{name}.mlp", kind),
        }
        if spec.qk_norm_eps is not None:
            w["q_norm"] = VectorSpec(f"{name}.self_attn.q_norm.weight", (spec.head_dim,))
            w["k_norm"] = VectorSpec(f"{name}.self_attn.k_norm.weight", (spec.head_dim,))
        return w

    def mlp_weights(self, name: str, kind: LayerKind) -> dict[str, Tree]:
        """Weight specs of the MLP whose tensors' names begin with ``name`` and a dot."""
        hidden, inner = self.hidden_size, self.intermediate_size
        return {
            "gate_up": fused(name, {"gate_proj": inner, "up_proj": inner}, hidden, self.mlp_bias, self.activation),
            "down": reducing(f"{name}.down_proj", hidden, inner, self.mlp_bias),
        }

    def layer(
        self, ops: Ops, w: Tree, carry: Carry, index: Any, step: Step, kind: LayerKind, angles: Array | None
    ) -> Carry:
        (x, residual, cache), spec = carry, kind.attention
        x, residual = ops.add_norm(x, residual, w["input_norm"], self.eps, consumers=(w["qkv"],), step=step)
        q, k, v = split_heads(ops.linear(x, w["qkv"], step), spec)
        x, cache = ops.attention(q, k, v, cache, index, step, spec, angles, w.get("q_norm"), w.get("k_norm"))
        x = ops.linear(x.reshape(-1, spec.q_heads * spec.v_head_dim), w["o"], step)
        readers = (w["gate_up"],) if "gate_up" in w else ()
        x, residual = ops.add_norm(x, residual, w["mlp_norm"], self.eps, consumers=readers, step=step)
        return self.mlp(ops, w, x, step, kind), residual, cache

    def mlp(self, ops: Ops, w: Tree, x: Array, step: Step, kind: LayerKind) -> Array:
        """What the layer adds last: [T, hidden] -> same, which only a norm or a sum reads."""
        return ops.linear(ops.gated_linear(x, w["gate_up"], self.activation, step), w["down"], step)
