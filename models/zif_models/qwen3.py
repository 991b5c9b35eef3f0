"""Qwen3, dense (Yang et al. 2025): Llama with norms of q and k a head."""

from __future__ import annotations

from dataclasses import replace

from zif.contract import Model
from zif_models import llama, qwen2
from zif_models.config import Config, Values

DEFAULTS: Values = {**qwen2.DEFAULTS, "head_dim": 128, "attention_bias": False}


def build(values: Values) -> Model:
    """The model that a ``config.json`` describes."""
    config = Config(values, DEFAULTS)
    model = llama.build_as(llama.Llama, config)
    normed = tuple(replace(spec, qk_norm_eps=model.eps) for spec in model.attention)
    return model.with_attention(qwen2.upper_windows(config, normed))
