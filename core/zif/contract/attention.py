"""Static descriptions of attention and rotary embeddings: hashable, known at load."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class RopeSpec:
    """Rotary position embedding (Su et al. 2021) of the first ``rotary_dim`` dimensions of a head.

    Pair i turns by position * ``inv_freq[i]``; ``inv_freq`` has rotary_dim / 2 entries, any scaling
    (linear, dynamic, llama3, YaRN, longrope) already in it. cos and sin are multiplied by
    ``attention_factor``. Pairs are (i, i + rotary_dim/2), or (2i, 2i+1) if ``interleaved``.
    """

    rotary_dim: int
    inv_freq: tuple[float, ...]
    attention_factor: float = 1.0
    interleaved: bool = False
    _hash: int = field(init=False, repr=False, compare=False, default=0)

    def __post_init__(self) -> None:
        assert len(self.inv_freq) == self.rotary_dim // 2
        values = (self.rotary_dim, self.inv_freq, self.attention_factor, self.interleaved)
        object.__setattr__(self, "_hash", hash(values))

    def __hash__(self) -> int:
        return self._hash  # specs key the tables of bound kernels: hashing dozens of floats a layer would show


@dataclass(frozen=True, slots=True)
class AttentionSpec:
    """One kind of attention layer of a model.

    ``group`` is the cache group its history is in. Scores are ``scale * q·k``, then, if set,
    ``softcap * tanh(score / softcap)``, then masked to the past (causal) and, if set, to the last
    ``window`` positions, the query's own among them. ``qk_norm_eps`` is set where q and k are
    normalised a head before rotation, with weights (``qk_norm_offset`` + w).
    """

    group: str
    q_heads: int
    kv_heads: int
    head_dim: int
    v_head_dim: int
    scale: float
    window: int | None = None
    softcap: float | None = None
    rope: RopeSpec | None = None
    qk_norm_eps: float | None = None
    qk_norm_offset: float = 0.0

    @property
    def dispatch_key(self) -> Any:
        return self
