"""Gemma 2 (Gemma Team 2024).

Norms before and after attention and MLP, weighted by 1 + w; every other layer with a window; scores and
logits bounded by tanh; embeddings scaled by sqrt(hidden).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from zif.contract import Array, AttentionSpec, Model, Ops, Step, Tree, VectorSpec
from zif_models.config import Config, Values
from zif_models.layers import Carry, Decoder, LayerKind, fused, reducing, split_heads, windowed
from zif_models.rope import rope_spec

DEFAULTS: Values = {
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "max_position_embeddings": 8192,
    "num_key_value_heads": 4,
    "query_pre_attn_scalar": 256,
    "rms_norm_eps": 1e-6,
    "sliding_window": 4096,
    "tie_word_embeddings": True,
}


def build(values: Values) -> Model:
    """The model that a ``config.json`` describes."""
    config = Config(values, DEFAULTS)
    layers = range(config.integer("num_hidden_layers"))
    kinds = config.layer_kinds(["full_attention" if i % 2 else "sliding_attention" for i in layers])
    rope = rope_spec(config)
    softcap = config.optional_positive("attn_logit_softcapping")
    specs = {kind: attention_spec(config, kind, rope=rope, softcap=softcap) for kind in set(kinds)}
    return Gemma(**common(config), kinds=tuple(LayerKind(specs[kind]) for kind in kinds))


def attention_spec(config: Config, kind: str, **facts: Any) -> AttentionSpec:
    """Attention of a layer of ``kind``."""
    q_heads, kv_heads = config.heads()
    spec = AttentionSpec(
        group="full",
        q_heads=q_heads,
        kv_heads=kv_heads,
        head_dim=config.head_dim(),
        v_head_dim=config.head_dim(),
        scale=config.positive("query_pre_attn_scalar") ** -0.5,
        **facts,
    )
    return windowed(spec, config.window()) if kind == "sliding_attention" else spec


def common(config: Config) -> dict[str, Any]:
    """What Gemma 2 and 3 read alike."""
    return {
        "vocab_size": config.integer("vocab_size"),
        "hidden_size": config.integer("hidden_size"),
        "intermediate_size": config.integer("intermediate_size"),
        "context_length": config.context_length(),
        "eps": config.positive("rms_norm_eps"),
        "activation": config.activation("hidden_activation"),
        "norm_offset": 1.0,
        "tied": config.flag("tie_word_embeddings"),
        "final_softcap": config.optional_positive("final_logit_softcapping"),
        "bias": config.flag("attention_bias"),
    }


@dataclass(frozen=True, kw_only=True)
class Gemma(Decoder):
    """Gemma 2, and 3 too: its norms of q and k are a fact of the attention spec."""

    bias: bool = False
    unsafe_dtypes: ClassVar[Mapping[str, str]] = {
        "float16": "Gemma's hidden states exceed 65504, the largest number that it has"
    }

    def layer_weights(self, name: str, kind: LayerKind) -> dict[str, Tree]:
        spec, hidden, inner = kind.attention, self.hidden_size, self.intermediate_size
        q, kv = spec.q_heads * spec.head_dim, spec.kv_heads * spec.head_dim
        w: dict[str, Tree] = {
            "input_norm": VectorSpec(f"{name}.input_layernorm.weight", (hidden,)),
            "qkv": fused(f"{name}.self_attn", {"q_proj": q, "k_proj": kv, "v_proj": kv}, hidden, self.bias),
            "o": reducing(f"{name}.self_attn.o_proj", hidden, q, self.bias),
            "attention_norm": VectorSpec(f"{name}.post_attention_layernorm.weight", (hidden,)),
            "pre_mlp_norm": VectorSpec(f"{name}.pre_feedforward_layernorm.weight", (hidden,)),
            "gate_up": fused(f"{name}.mlp", {"gate_proj": inner, "up_proj": inner}, hidden, gate=self.activation),
            "down": reducing(f"{name}.mlp.down_proj", hidden, inner),
            "mlp_norm": VectorSpec(f"{name}.post_feedforward_layernorm.weight", (hidden,)),
        }
        if spec.qk_norm_eps is not None:
            w["q_norm"] = VectorSpec(f"{name}.self_attn.q_norm.weight", (spec.head_dim,))
            w["k_norm"] = VectorSpec(f"{name}.self_attn.k_norm.weight", (spec.head_dim,))
        return w

    def embed(self, ops: Ops, w: Tree, step: Step) -> Array:
        x = super().embed(ops, w, step)
        # The scale as the model was trained with it: rounded to the activations' dtype first.
        return x * (x[:1, :1] * 0 + self.hidden_size**0.5)

    def layer(
        self, ops: Ops, w: Tree, carry: Carry, index: Any, step: Step, kind: LayerKind, angles: Array | None
    ) -> Carry:
        (x, residual, cache), spec = carry, kind.attention
        eps, one = self.eps, self.norm_offset
        x, residual = ops.add_norm(x, residual, w["input_norm"], eps, one, consumers=(w["qkv"],), step=step)
        q, k, v = split_heads(ops.linear(x, w["qkv"], step), spec)
        x, cache = ops.attention(q, k, v, cache, index, step, spec, angles, w.get("q_norm"), w.get("k_norm"))
        x = ops.linear(x.reshape(-1, spec.q_heads * spec.v_head_dim), w["o"], step)
        x = ops.rms_norm(x, w["attention_norm"], eps, one)
        x, residual = ops.add_norm(x, residual, w["pre_mlp_norm"], eps, one, consumers=(w["gate_up"],), step=step)
        x = ops.gated_linear(x, w["gate_up"], self.activation, step)
        x = ops.rms_norm(ops.linear(x, w["down"], step), w["mlp_norm"], eps, one)
        return x, residual, cache
