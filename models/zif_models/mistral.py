"""Mistral (Jiang et al. 2023): Llama with, in its first versions, a sliding window in every layer."""

from __future__ import annotations

from zif.contract import Model
from zif_models import llama
from zif_models.config import Config, Values
from zif_models.layers import windowed

DEFAULTS: Values = {
    **llama.DEFAULTS,
    "max_position_embeddings": 131_072,
    "num_key_value_heads": 8,
    "sliding_window": 4096,
}


def build(values: Values) -> Model:
    """The model that a ``config.json`` describes."""
    config = Config(values, DEFAULTS)
    model = llama.build_as(llama.Llama, config)
    return model.with_attention([windowed(spec, config.window()) for spec in model.attention])
