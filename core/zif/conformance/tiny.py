"""Tiny models of every kind, with random weights, that the suite runs through the engine."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zif_models
from zif.conformance import latent_model, mixed_model
from zif.contract.model import Model

VOCAB = 256
_COMMON = {
    "vocab_size": VOCAB, "hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "torch_dtype": "float32", "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
_LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
_OWN = {latent_model.ARCHITECTURE: latent_model.__name__, mixed_model.ARCHITECTURE: mixed_model.__name__}


@dataclass(frozen=True)
class Tiny:
    """A model of its ``config``. ``profiles`` are those that a backend claims that has to run it.

    ``narrow``: how far log-probabilities may be off in dtypes narrower than float32. Gemma's logits are twice as
    spread as others', behind a residual eleven times as large as what is added to it.
    """

    name: str
    config: Mapping[str, Any]
    profiles: tuple[str, ...] = ("llm",)
    narrow: float = 0.1

    @property
    def models(self) -> Mapping[str, str]:
        """Architectures that are the suite's own, each with its module."""
        return _OWN

    @property
    def model(self) -> Model:
        """As the engine builds it."""
        return zif_models.resolve(self.config, self.models).build(self.config)

    @contextmanager
    def checkpoint(self) -> Iterator[str]:
        """A directory with a config and no weights: they are made up."""
        logger = logging.getLogger("zif")
        level = logger.level
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "config.json").write_text(json.dumps(self.config))
            logger.setLevel(logging.ERROR)  # that the weights are made up is no news here
            try:
                yield folder
            finally:
                logger.setLevel(level)


def _of(architecture: str, kind: str, **more: Any) -> dict[str, Any]:
    return _COMMON | {"architectures": [f"{architecture}ForCausalLM"], "model_type": kind} | more


FULL = Tiny("full attention", _of("Qwen2", "qwen2", hidden_act="silu"))
WINDOWS = Tiny(
    "windows and soft-caps",
    _of(
        "Gemma2", "gemma2", hidden_activation="gelu_pytorch_tanh", sliding_window=24, query_pre_attn_scalar=64,
        attn_logit_softcapping=20.0, final_logit_softcapping=15.0, tie_word_embeddings=True,
    ),
    narrow=0.4,
)  # fmt: skip
NORMED = Tiny("norms of q and k", _of("Qwen3", "qwen3", hidden_act="silu", rope_theta=300.0, num_attention_heads=6))
TINY = (
    FULL,
    WINDOWS,
    NORMED,
    Tiny(
        "two rope bases",
        _of(
            "Gemma3", "gemma3_text", hidden_activation="gelu_pytorch_tanh", sliding_window=16,
            query_pre_attn_scalar=64, rope_theta=5000.0, rope_local_base_freq=100.0,
            layer_types=["sliding_attention", "full_attention"], tie_word_embeddings=True,
        ),
        narrow=0.4,
    ),
    Tiny(
        "scaled rope, biases",
        _of(
            "Llama", "llama", hidden_act="silu", rope_theta=500.0, rope_scaling=_LLAMA3, attention_bias=True,
            mlp_bias=True, num_key_value_heads=4,
        ),
    ),
    Tiny("window", _of("Mistral", "mistral", hidden_act="silu", sliding_window=20, rope_theta=1e6)),
    Tiny(
        "part of a head turned",
        _of(
            "Phi3", "phi3", hidden_act="silu", rope_theta=1000.0, partial_rotary_factor=0.5, sliding_window=None,
            pad_token_id=0,
        ),
    ),
    Tiny(
        "experts",
        {
            "architectures": [mixed_model.ARCHITECTURE], "layers": "DdSdS", "num_hidden_layers": 5, "vocab_size": 96,
            "hidden_size": 32, "intermediate_size": 40, "moe_intermediate_size": 16, "num_attention_heads": 4,
            "num_key_value_heads": 2, "max_position_embeddings": 128, "sliding_window": 9, "rope_theta": 200.0,
        },
        ("llm", "moe"),
    ),
    Tiny("latents", {"architectures": [latent_model.ARCHITECTURE]}, ("llm", "mla", "moe")),
)  # fmt: skip
