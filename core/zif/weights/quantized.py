"""Quantized checkpoints are told by any of the places that say so: served as they are, they would be noise."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zif.contract.errors import UnsupportedModel

_KEYS = ("quantization_config", "compression_config", "quantization")
_FILES = ("hf_quant_config.json", "quantize_config.json", "quant_config.json", "quantization_config.json")


def refuse_quantized(path: Path, config: Mapping[str, Any]) -> None:
    """Raise UnsupportedModel if ``config.json``, or a file beside it, says that the weights are quantized."""
    for part in (config, config.get("text_config")):
        for key in _KEYS:
            if isinstance(part, Mapping) and part.get(key):
                raise _refusal(path, f"{key} in config.json", part[key])
    for name in _FILES:
        if (path / name).is_file():
            raise _refusal(path, name, None)


def _refusal(path: Path, where: str, said: Any) -> UnsupportedModel:
    method = said.get("quant_method") if isinstance(said, Mapping) else None
    if method is None and where.startswith("quantization "):
        method = "mlx"  # which alone writes the key without a method
    told = f"{where}, method {method!r}" if method is not None else where
    return UnsupportedModel(
        f"{path}: the checkpoint is quantized ({told}), which zif cannot load yet; use the unquantized checkpoint"
    )
