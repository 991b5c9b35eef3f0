"""Qwen2 and 2.5 (Yang et al. 2024): Llama with biases on q, k and v, and maybe windows in the upper layers."""

from __future__ import annotations

from dataclasses import replace

from zif.contract import AttentionSpec, Model
from zif_models import llama
from zif_models.config import Config, Values
from zif_models.layers import windowed

DEFAULTS: Values = {
    **llama.DEFAULTS,
    "max_position_embeddings": 32_768,
    "num_key_value_heads": 32,
    "use_sliding_window": False,
    "sliding_window": 4096,
    "max_window_layers": 28,
}


def build(values: Values) -> Model:
    """The model that a ``config.json`` describes."""
    config = Config(values, DEFAULTS)
    model = llama.build_as(llama.Llama, config)
    return replace(model, qkv_bias=True, o_bias=False).with_attention(upper_windows(config, model.attention))


def upper_windows(config: Config, attention: tuple[AttentionSpec, ...]) -> tuple[AttentionSpec, ...]:
    """``attention`` with the sliding windows that Qwen's configs ask for."""
    if not config.flag("use_sliding_window"):
        return attention
    first = config.number("max_window_layers")
    kinds = config.layer_kinds(["full_attention" if i < first else "sliding_attention" for i in range(len(attention))])
    windows = {"full_attention": None, "sliding_attention": config.window()}
    return tuple(windowed(spec, windows[kind]) for spec, kind in zip(attention, kinds, strict=True))
