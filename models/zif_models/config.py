"""Reading a Hugging Face ``config.json``: typed, with errors that name the key.

Configs on the hub leave out what equals their class's default at the time, so each family states
the defaults it relies on. One key is ours: ``served_context_length``, the longest sequence that is
going to be served, for the features that depend on it; without it, what the model was made for.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from zif.contract import UnsupportedModel

Values = Mapping[str, Any]
_SHOWN = 80

LARGEST = 2**31 - 1
"""Of any whole number in a config: positions and token ids are int32."""
LIMITS = {
    "num_hidden_layers": 4096,
    "num_attention_heads": 4096,
    "num_key_value_heads": 4096,
    "head_dim": 8192,
    "hidden_size": 2**20,
    "intermediate_size": 2**24,
    "vocab_size": 2**24,
    "sliding_window_pattern": 4096,
}
"""Far above every model there is: a larger number is a mistake, and would cost minutes or all memory to find out."""
ALTERING: Mapping[str, str] = {
    "use_bidirectional_attention": "attention to later tokens",
    "attn_logit_softcapping": "a bound on attention scores",
    "final_logit_softcapping": "a bound on logits",
    "query_pre_attn_scalar": "another scale of attention scores",
    "clip_qkv": "a bound on queries, keys and values",
    "alibi": "ALiBi",
    "use_alibi": "ALiBi",
    "attn_temperature_tuning": "a temperature of attention",
    "attention_chunk_size": "attention in chunks",
    "no_rope_layers": "layers without rotary embedding",
    "qk_layernorm": "norms of queries and keys",
    "use_qk_norm": "norms of queries and keys",
    "use_parallel_residual": "attention and MLP side by side",
    "num_experts": "a mixture of experts",
    "num_local_experts": "a mixture of experts",
    "n_routed_experts": "a mixture of experts",
    "kv_lora_rank": "latent attention",
    "scale_emb": "scaled embeddings",
    "embedding_multiplier": "scaled embeddings",
    "scale_depth": "scaled residuals",
    "residual_multiplier": "scaled residuals",
    "attention_multiplier": "another scale of attention scores",
    "logit_scale": "scaled logits",
    "logits_scaling": "scaled logits",
}
"""What changes the numbers of some models: a family that has no use for one refuses it where it is set."""
_MULTIPLIERS = frozenset(key for key in ALTERING if key.endswith(("_multiplier", "_scale", "_scaling", "scale_emb")))
LAYER_KINDS = ("full_attention", "sliding_attention")
ACTIVATIONS = {"silu": "silu", "gelu_pytorch_tanh": "gelu_tanh"}
"""Hugging Face's names of the activations that ``gated_activation`` has, and ours."""


class Config:
    """A config with its family's ``defaults`` beneath it.

    A key that is present and null stays null: it says "none", not "default".
    """

    def __init__(self, values: Values, defaults: Values) -> None:
        self.values = {**defaults, **values}
        for key, what in ALTERING.items():
            if key not in defaults and not (key in _MULTIPLIERS and values.get(key) == 1):
                self.refuse(key, what)

    def but(self, **changes: Any) -> Config:
        """The same with other values of some keys."""
        return Config({}, {**self.values, **changes})

    def get(self, key: str) -> Any:
        """The value of ``key``, None if it is null or missing."""
        return self.values.get(key)

    def integer(self, key: str, default: int | None = None) -> int:
        """A positive whole number; ``default`` serves where the key is null or missing."""
        value = self.optional_integer(key)
        return value if value is not None else self._needed(key, default)

    def optional_integer(self, key: str) -> int | None:
        """A positive whole number, or None."""
        value = self.get(key)
        most = LIMITS.get(key, LARGEST)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            self._wrong(key, "a positive whole number")
        if value is not None and value > most:
            self._wrong(key, f"at most {most}")
        return value

    def number(self, key: str) -> float:
        """A number."""
        value = self.optional_number(key)
        return value if value is not None else self._needed(key, None)

    def optional_number(self, key: str) -> float | None:
        """A number, or None."""
        value = self.get(key)
        if value is not None and not is_number(value):
            self._wrong(key, "a number")
        return None if value is None else float(value)

    def positive(self, key: str) -> float:
        """A number above zero."""
        value = self.optional_positive(key)
        return value if value is not None else self._needed(key, None)

    def optional_positive(self, key: str) -> float | None:
        """A number above zero, or None."""
        value = self.optional_number(key)
        if value is not None and value <= 0:
            self._wrong(key, "a number above zero")
        return value

    def table(self, key: str) -> Values:
        """An object; empty where the key is null or missing."""
        value = self.get(key)
        if not isinstance(value, Mapping | None):
            self._wrong(key, "an object")
        return value or {}

    def flag(self, key: str) -> bool:
        """True or false; null and missing are false."""
        value = self.get(key)
        if not isinstance(value, bool | None):
            self._wrong(key, "true or false")
        return bool(value)

    def head_dim(self) -> int:
        """Size of an attention head, which older configs leave to be derived."""
        return self.integer("head_dim", max(self.integer("hidden_size") // self.integer("num_attention_heads"), 1))

    def heads(self) -> tuple[int, int]:
        """Query heads and key-value heads, of which the first are a multiple; as many where the key is null."""
        queries = self.integer("num_attention_heads")
        keys = self.integer("num_key_value_heads", queries)
        if queries % keys:
            self._wrong("num_key_value_heads", f"a divisor of num_attention_heads, {queries}")
        return queries, keys

    def activation(self, key: str = "hidden_act") -> str:
        """The gated MLP's activation, as the ops name it."""
        value = self.get(key)
        if not isinstance(value, str) or value not in ACTIVATIONS:
            self._wrong(key, f"one of {', '.join(ACTIVATIONS)}")
        return ACTIVATIONS[value]

    def context_length(self) -> int:
        """Tokens in the longest sequence that will be served."""
        longest = self.integer("max_position_embeddings")
        rope = Config({}, self.table("rope_scaling") or self.table("rope_parameters"))
        trained, factor = rope.optional_positive("original_max_position_embeddings"), rope.optional_positive("factor")
        if "yarn" in (rope.get("rope_type"), rope.get("type")) and trained and factor:
            longest = max(
                longest, int(min(trained * factor, LARGEST + 1))
            )  # Qwen's stay at what they were trained with
        if longest > LARGEST:
            self._wrong("max_position_embeddings", f"at most {LARGEST}, with its scaling")
        return self.integer("served_context_length", longest)

    def window(self) -> int | None:
        """The sliding window; None where there is none, or no sequence is longer than it."""
        window = self.optional_integer("sliding_window")
        return None if window is None or window >= self.context_length() else window

    def layer_kinds(self, otherwise: Sequence[str]) -> tuple[str, ...]:
        """``layer_types``, or ``otherwise`` where an older config does not list them: a kind each layer."""
        listed = self.get("layer_types") or otherwise
        if not isinstance(listed, list | tuple) or not all(isinstance(kind, str) for kind in listed):
            self._wrong("layer_types", "a list of names")
        kinds = tuple(listed)
        strange = sorted(set(kinds) - set(LAYER_KINDS))
        if strange:
            raise UnsupportedModel(
                f"config.json: layer_types has {', '.join(strange)}; known: {', '.join(LAYER_KINDS)}"
            )
        layers = self.integer("num_hidden_layers")
        if len(kinds) != layers:
            raise UnsupportedModel(f"config.json: layer_types has {len(kinds)} entries for {layers} layers")
        return kinds

    def refuse(self, key: str, what: str) -> None:
        """Raise UnsupportedModel if ``key`` is set: ``what`` is not there yet."""
        if self.get(key):
            raise UnsupportedModel(f"config.json: {key}={shortened(self.get(key))}: {what} is not supported yet")

    def _needed(self, key: str, default: Any) -> Any:
        if default is None:
            raise UnsupportedModel(f"config.json has no {key!r}, which this architecture needs")
        return default

    def _wrong(self, key: str, wanted: str) -> NoReturn:
        raise UnsupportedModel(f"config.json: {key} is {shortened(self.get(key))}, not {wanted}")


def is_number(value: Any) -> bool:
    """Whether ``value`` is a number that a float holds: neither true, nor infinite, nor longer."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return abs(value) <= sys.float_info.max


def shortened(value: Any) -> str:
    """``value`` for a message, which it must not fill."""
    text = repr(value) if not isinstance(value, int) or abs(value) < 10**50 else "a number of over 50 digits"
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."
