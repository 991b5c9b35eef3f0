"""Gemma 3, text (Gemma Team 2025): Gemma 2 with norms of q and k instead of soft-caps, five windows to
one full layer, and a rotary base of its own for each of the two.

Of a checkpoint that also sees images (``Gemma3ForConditionalGeneration``), the language model is served.
"""

from __future__ import annotations

from zif.contract import Model
from zif_models.config import Config, Values
from zif_models.gemma2 import Gemma, attention_spec, common
from zif_models.layers import LayerKind
from zif_models.rope import rope_parameters, rope_spec

DEFAULTS: Values = {
    "final_logit_softcapping": None,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "max_position_embeddings": 131_072,
    "num_attention_heads": 8,
    "num_hidden_layers": 26,
    "num_key_value_heads": 4,
    "query_pre_attn_scalar": 256,
    "rms_norm_eps": 1e-6,
    "rope_local_base_freq": 10_000.0,
    "rope_theta": 1_000_000.0,
    "sliding_window": 4096,
    "sliding_window_pattern": 6,
    "tie_word_embeddings": True,
    "vocab_size": 262_208,
}


def build(values: Values) -> Model:
    """The model that a ``config.json`` describes, or the language model of one with a ``text_config``."""
    config = Config({**values, **Config({}, values).table("text_config")}, DEFAULTS)
    every = config.integer("sliding_window_pattern")
    layers = range(1, config.integer("num_hidden_layers") + 1)
    kinds = config.layer_kinds(["sliding_attention" if i % every else "full_attention" for i in layers])
    local = config.but(rope_scaling=None, rope_theta=config.get("rope_local_base_freq"))
    ropes = {
        "full_attention": rope_spec(config, rope_parameters(config)),
        "sliding_attention": rope_spec(config, rope_parameters(local, "sliding_attention")),
    }
    facts = {"qk_norm_eps": config.positive("rms_norm_eps"), "qk_norm_offset": 1.0}
    specs = {kind: attention_spec(config, kind, rope=ropes[kind], **facts) for kind in set(kinds)}
    return Gemma(**common(config), kinds=tuple(LayerKind(specs[kind]) for kind in kinds))
