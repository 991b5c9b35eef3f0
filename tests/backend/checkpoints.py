"""Tiny random checkpoints, made and saved by transformers' own classes, and what these compute with them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

VOCAB = 199
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.15,
    "pad_token_id": 0,
}
HALF = {"rope_theta": 100.0, "original_max_position_embeddings": 16}  # frequencies on both sides of every ramp

Facts = dict[str, Any]
# name -> (transformers' config class, what differs from SIZES)
CHECKPOINTS: dict[str, tuple[str, Facts]] = {
    "llama": ("LlamaConfig", {}),
    "llama-tied": ("LlamaConfig", {"tie_word_embeddings": True}),
    "llama-biases": ("LlamaConfig", {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 4}),
    "llama-wide-heads": ("LlamaConfig", {"head_dim": 24}),
    "llama-linear": ("LlamaConfig", {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 500.0}}),
    "llama-dynamic": ("LlamaConfig", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}),
    "llama-llama3": (
        "LlamaConfig",
        {
            "rope_parameters": {
                "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, **HALF,
            }
        },
    ),
    "llama-yarn": ("LlamaConfig", {"rope_parameters": {"rope_type": "yarn", "factor": 8.0, "beta_fast": 4.0} | HALF}),
    "llama-longrope": (
        "LlamaConfig",
        {
            "rope_parameters": {
                "rope_type": "longrope", "factor": 8.0, "original_max_position_embeddings": 128,
                "short_factor": [1.0 + i / 8 for i in range(8)], "long_factor": [2.0 + i for i in range(8)],
            }
        },
    ),
    "mistral": ("MistralConfig", {"sliding_window": 8}),
    "mistral-full": ("MistralConfig", {"sliding_window": None, "head_dim": 32}),
    "qwen2": ("Qwen2Config", {"tie_word_embeddings": True}),
    "qwen2-windows": ("Qwen2Config", {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1}),
    "qwen3": ("Qwen3Config", {"head_dim": 32}),
    "gemma2": (
        "Gemma2Config",
        {"head_dim": 16, "query_pre_attn_scalar": 24, "num_hidden_layers": 5, "sliding_window": 8},
    ),
    "gemma3": (
        "Gemma3TextConfig",
        {
            "head_dim": 16, "query_pre_attn_scalar": 24, "num_hidden_layers": 8, "sliding_window": 8,
            "sliding_window_pattern": 3,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
            },
        },
    ),
    "phi3": ("Phi3Config", {"sliding_window": 9}),
    "phi3-longrope": (
        "Phi3Config",
        {
            "tie_word_embeddings": True,
            "original_max_position_embeddings": 64,
            "rope_parameters": {
                "rope_type": "longrope", "partial_rotary_factor": 0.5, "rope_theta": 100.0,
                "short_factor": [1.0, 1.5, 2.0, 2.5], "long_factor": [1.0, 3.0, 5.0, 9.0],
            },
        },
    ),
}  # fmt: skip

SERVED = {"phi3-longrope": 64}
"""The context length to serve, where a checkpoint's default is not what short prompts get in transformers."""


@dataclass(frozen=True)
class Saved:
    """A checkpoint on disk, and the model that wrote it."""

    path: Path
    model: Any

    @property
    def config(self) -> Facts:
        config: Facts = json.loads((self.path / "config.json").read_text())
        return config

    def edit_config(self, change: Callable[[Facts], None]) -> None:
        config = self.config
        change(config)
        (self.path / "config.json").write_text(json.dumps(config))

    def logits(self, tokens: list[int]) -> np.ndarray[Any, Any]:
        """[len(tokens), vocab], computed whole and without a cache."""
        import torch

        with torch.no_grad():
            result: np.ndarray[Any, Any] = self.model(torch.tensor([tokens]), use_cache=False).logits[0].numpy()
        return result

    def continue_greedily(self, prompt: list[int], count: int, margin: float = 1e-3) -> list[int]:
        """``count`` tokens after ``prompt``, each likelier than the next by more than ``margin``."""
        tokens = list(prompt)
        for _ in range(count):
            last = self.logits(tokens)[-1]
            second, first = np.sort(last)[-2:]
            assert first - second > margin, "the checkpoint has no clear greedy continuation: take another seed"
            tokens.append(int(last.argmax()))
        return tokens[len(prompt) :]


def save(name: str, path: Path, *, seed: int = 0, max_shard_size: str = "1GB", **facts: Any) -> Saved:
    """Make the checkpoint ``name``, changed by ``facts``, in float32, and save it to ``path``."""
    import torch
    import transformers

    kind, own = CHECKPOINTS[name]
    config = getattr(transformers, kind)(**{**SIZES, **own, **facts})
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:  # norms are made as 1 or 0 and biases as 0, which would hide mistakes with them
                parameter.add_(torch.randn_like(parameter) * 0.2)
    model.eval().save_pretrained(path, max_shard_size=max_shard_size)
    return Saved(path, model)
