"""Which format a checkpoint's weights are in: told by any of the places that say so, or refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zif.contract.errors import UnsupportedModel
from zif.weights.formats.format import Plain, WeightFormat
from zif.weights.formats.fp8 import CompressedFp8, Fp8

METHODS: Mapping[str, type[WeightFormat]] = {
    "compressed-tensors": CompressedFp8,
    "fp8": Fp8,
}
"""``quant_method`` of ``quantization_config``, and what reads it."""
_KEYS = ("quantization_config", "compression_config", "quantization")
_FILES = ("hf_quant_config.json", "quantize_config.json", "quant_config.json", "quantization_config.json")


def find_format(path: Path, config: Mapping[str, Any]) -> WeightFormat:
    """The format that ``config.json``, or a file beside it, tells of.

    Raises UnsupportedModel for one that zif does not read: served as it is, it would be noise.
    """
    for part in (config, config.get("text_config")):
        for key in _KEYS:
            if isinstance(part, Mapping) and part.get(key):
                return _reader(path, f"{key} in config.json", part[key])
    for name in _FILES:
        if (path / name).is_file():
            raise _refusal(path, name, None)
    return Plain()


def _reader(path: Path, where: str, said: Any) -> WeightFormat:
    method = str(said.get("quant_method")) if isinstance(said, Mapping) and "quant_method" in said else None
    if method is None or method not in METHODS:
        raise _refusal(path, where, method)
    try:
        return METHODS[method](said)
    except UnsupportedModel as error:
        told = f"{path}: the checkpoint is quantized ({where}, method {method!r})"
        raise UnsupportedModel(f"{told} in a way that zif cannot load yet: {error}") from None


def _refusal(path: Path, where: str, method: str | None) -> UnsupportedModel:
    if method is None and where.startswith("quantization "):
        method = "mlx"  # which alone writes the key without a method
    told = f"{where}, method {method!r}" if method is not None else where
    return UnsupportedModel(
        f"{path}: the checkpoint is quantized ({told}), which zif cannot load yet; "
        f"it reads {', '.join(METHODS)}, and unquantized checkpoints"
    )
