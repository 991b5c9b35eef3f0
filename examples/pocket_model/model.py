"""The network in plain torch, made for training on documents packed in a row, and its export as ``LlamaForCausalLM``."""

from __future__ import annotations

import inspect
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn

# torch 2.10 says is_causal, later versions say it with a window.
_CAUSAL: dict[str, Any] = (
    {"window_size": (-1, 0)} if "window_size" in inspect.signature(varlen_attn).parameters else {"is_causal": True}
)
BOS, EOS, PAD = 0, 2, 3


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a Llama, named as in ``config.json``."""

    vocab_size: int = 2048
    hidden_size: int = 256
    intermediate_size: int = 384
    num_hidden_layers: int = 8
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    head_dim: int = 64
    max_position_embeddings: int = 2048
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-5


def attention(q: Tensor, k: Tensor, v: Tensor, bounds: Tensor, longest: int) -> Tensor:
    """Causal attention inside each document.

    ``q, k, v``: [tokens, heads, head_dim]; ``bounds``: int32 [documents + 1], where documents begin and end. Flash attention
    on a GPU; elsewhere a dense mask, for trying the script out.
    """
    if q.is_cuda:
        out = varlen_attn(q, k, v, bounds, bounds, longest, longest, **_CAUSAL)
        assert isinstance(out, Tensor), "a tuple comes only with return_aux"
        return out
    document = torch.searchsorted(bounds, torch.arange(len(q), dtype=torch.int32), right=True)
    mask = (document[:, None] == document[None, :]).tril()
    q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)[0].transpose(0, 1)


class Block(nn.Module):
    """One transformer layer; the names of its members are those of the checkpoint."""

    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.shape = s
        queries, keys = s.num_attention_heads * s.head_dim, s.num_key_value_heads * s.head_dim
        self.self_attn = nn.ModuleDict(
            {
                "q_proj": nn.Linear(s.hidden_size, queries, bias=False),
                "k_proj": nn.Linear(s.hidden_size, keys, bias=False),
                "v_proj": nn.Linear(s.hidden_size, keys, bias=False),
                "o_proj": nn.Linear(queries, s.hidden_size, bias=False),
            }
        )
        self.mlp = nn.ModuleDict(
            {
                "gate_proj": nn.Linear(s.hidden_size, s.intermediate_size, bias=False),
                "up_proj": nn.Linear(s.hidden_size, s.intermediate_size, bias=False),
                "down_proj": nn.Linear(s.intermediate_size, s.hidden_size, bias=False),
            }
        )
        self.input_layernorm = nn.RMSNorm(s.hidden_size, s.rms_norm_eps)
        self.post_attention_layernorm = nn.RMSNorm(s.hidden_size, s.rms_norm_eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, bounds: Tensor) -> Tensor:
        s = self.shape
        h = self.input_layernorm(x)
        q = self.self_attn["q_proj"](h).view(-1, s.num_attention_heads, s.head_dim)
        k = self.self_attn["k_proj"](h).view(-1, s.num_key_value_heads, s.head_dim)
        v = self.self_attn["v_proj"](h).view(-1, s.num_key_value_heads, s.head_dim)
        groups = s.num_attention_heads // s.num_key_value_heads
        q, k = rotate(q, cos, sin), rotate(k, cos, sin).repeat_interleave(groups, 1)
        out = attention(q, k, v.repeat_interleave(groups, 1), bounds, s.max_position_embeddings)
        x = x + self.self_attn["o_proj"](out.reshape(len(x), -1))
        h = self.post_attention_layernorm(x)
        y: Tensor = self.mlp["down_proj"](F.silu(self.mlp["gate_proj"](h)) * self.mlp["up_proj"](h))
        return x + y


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding in the half-split layout of Hugging Face; ``cos, sin``: [tokens, 1, head_dim / 2]."""
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1).to(x.dtype)


class Model(nn.Module):
    """Tokens in a row to the mean loss over the trained ones."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embed_tokens = nn.Embedding(shape.vocab_size, shape.hidden_size)
        self.layers = nn.ModuleList(Block(shape) for _ in range(shape.num_hidden_layers))
        self.norm = nn.RMSNorm(shape.hidden_size, shape.rms_norm_eps)
        for name, p in self.named_parameters():
            if p.ndim == 2:
                residual = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(p, std=0.02 / math.sqrt(2 * shape.num_hidden_layers) if residual else 0.02)
        frequency = shape.rope_theta ** (-torch.arange(0, shape.head_dim, 2).float() / shape.head_dim)
        angle = torch.outer(torch.arange(shape.max_position_embeddings).float(), frequency)
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)

    def forward(self, tokens: Tensor, targets: Tensor, positions: Tensor, bounds: Tensor) -> Tensor:
        """``tokens, targets, positions``: int64 [tokens]; a target of -100 is not trained."""
        assert isinstance(self.cos, Tensor) and isinstance(self.sin, Tensor)
        cos, sin = self.cos[positions][:, None], self.sin[positions][:, None]
        x = self.embed_tokens(tokens)
        for layer in self.layers:
            x = layer(x, cos, sin, bounds)
        logits = F.linear(self.norm(x), self.embed_tokens.weight)
        return F.cross_entropy(logits.float(), targets)


def export(model: Model, out: Path) -> None:
    """Writes ``model.safetensors`` (bf16), ``config.json`` and ``generation_config.json``."""
    from safetensors.torch import save_file

    tensors = {
        f"model.{name}": p.detach().to("cpu", torch.bfloat16).contiguous() for name, p in model.named_parameters()
    }
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    (out / "model.safetensors").chmod(0o644)
    config: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        **asdict(model.shape),
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "attention_dropout": 0.0,
        "tie_word_embeddings": True,
        "initializer_range": 0.02,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "pad_token_id": PAD,
        "use_cache": True,
        "torch_dtype": "bfloat16",
    }
    generation = {"bos_token_id": BOS, "eos_token_id": [EOS, BOS], "pad_token_id": PAD, "do_sample": False}
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    (out / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n", encoding="utf-8")
