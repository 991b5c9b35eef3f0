"""Facts of requests that several ops have."""

from __future__ import annotations

from zif.contract.opspec import Fact

SIZE = Fact("size", "length of the last axis")
VOCAB = Fact("vocab", "length of a row of logits")
KIND = Fact("kind", "the activation", values={"silu": 1, "gelu_tanh": 1})

WEIGHT = (
    Fact("key", "the weight's ``dispatch_key``"),
    Fact("format", "what the weight's arrays mean: ``dense``, or another that a packer makes"),
)
LINEAR = (
    *WEIGHT,
    Fact("in_features", "columns of the weight"),
    Fact("out_features", "rows of the weight"),
    Fact("bias", "whether it has a bias"),
)
ATTENTION = (
    Fact("key", "the AttentionSpec"),
    Fact("q_heads", "query heads"),
    Fact("kv_heads", "heads of the cache"),
    Fact("head_dim", "size of a head's queries and keys"),
    Fact("v_head_dim", "size of a head's values"),
    Fact("window", "positions that a query sees, itself included, or None for all"),
    Fact("softcap", "bound of the scores, or None"),
    Fact("qk_norm", "whether queries and keys are normalised a head"),
    Fact("rotary_dim", "dimensions of a head that are rotated, 0 for none"),
    Fact("page_size", "tokens of a page"),
    Fact("page_factor", "the same in the smallest pages of the model, in which ``StepShape.pages`` is"),
    Fact("cache_format", "name of the format that the group is stored in: a dtype, ``fp8_e4m3``, ``int8``, ..."),
    Fact("cache_layout", "how the format's arrays are arranged: ``plain``, or another that a backend or extension has"),
)
