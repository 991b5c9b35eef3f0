"""Reading a Hugging Face ``config.json``: typed, with errors that name the key.

Configs on the hub leave out what equals their class's default at the time, so each family states
the defaults it relies on. One key is ours: ``served_context_length``, the longest sequence that is
going to be served, for the features that depend on it; without it, what the model was made for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from zif.contract.errors import UnsupportedModel

Values = Mapping[str, Any]

LAYER_KINDS = ("full_attention", "sliding_attention")
ACTIVATIONS = {"silu": "silu", "gelu_pytorch_tanh": "gelu_tanh"}
"""Hugging Face's names of the activations that ``gated_activation`` has, and ours."""


class Config:
    """A config with its family's ``defaults`` beneath it.

    A key that is present and null stays null: it says "none", not "default".
    """

    def __init__(self, values: Values, defaults: Values) -> None:
        if values.get("quantization_config") is not None:
            method = dict(values["quantization_config"]).get("quant_method", "unknown")
            raise UnsupportedModel(
                f"the checkpoint is quantized (quantization_config, method {method!r}), which zif cannot load yet; "
                "use the unquantized checkpoint"
            )
        self.values = {**defaults, **values}

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
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            self._wrong(key, "a positive whole number")
        return value

    def number(self, key: str) -> float:
        """A number."""
        value = self.optional_number(key)
        return value if value is not None else self._needed(key, None)

    def optional_number(self, key: str) -> float | None:
        """A number, or None."""
        value = self.get(key)
        if value is not None and (not isinstance(value, int | float) or isinstance(value, bool)):
            self._wrong(key, "a number")
        return None if value is None else float(value)

    def flag(self, key: str) -> bool:
        """True or false; null and missing are false."""
        value = self.get(key)
        if not isinstance(value, bool | None):
            self._wrong(key, "true or false")
        return bool(value)

    def head_dim(self) -> int:
        """Size of an attention head, which older configs leave to be derived."""
        return self.integer("head_dim", self.integer("hidden_size") // self.integer("num_attention_heads"))

    def activation(self, key: str = "hidden_act") -> str:
        """The gated MLP's activation, as the ops name it."""
        value = self.get(key)
        if value not in ACTIVATIONS:
            self._wrong(key, f"one of {', '.join(ACTIVATIONS)}")
        return ACTIVATIONS[value]

    def context_length(self) -> int:
        """Tokens in the longest sequence that will be served."""
        longest = self.integer("max_position_embeddings")
        rope = self.get("rope_scaling") or self.get("rope_parameters") or {}
        trained = rope.get("original_max_position_embeddings")
        if "yarn" in (rope.get("rope_type"), rope.get("type")) and trained and rope.get("factor"):
            longest = max(longest, int(trained * rope["factor"]))  # Qwen's stay at what they were trained with
        return self.integer("served_context_length", longest)

    def window(self) -> int | None:
        """The sliding window; None where there is none, or no sequence is longer than it."""
        window = self.optional_integer("sliding_window")
        return None if window is None or window >= self.context_length() else window

    def layer_kinds(self, otherwise: Sequence[str]) -> tuple[str, ...]:
        """``layer_types``, or ``otherwise`` where an older config does not list them: a kind each layer."""
        kinds = tuple(self.get("layer_types") or otherwise)
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
            raise UnsupportedModel(f"config.json: {key}={self.get(key)!r}: {what} is not supported yet")

    def _needed(self, key: str, default: Any) -> Any:
        if default is None:
            raise UnsupportedModel(f"config.json has no {key!r}, which this architecture needs")
        return default

    def _wrong(self, key: str, wanted: str) -> None:
        raise UnsupportedModel(f"config.json: {key} is {self.get(key)!r}, not {wanted}")
