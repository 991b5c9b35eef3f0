"""Weights in eight bits (float8_e4m3fn), with a scale a tensor, a row or a block: value = weight * scale.

``fp8`` is what DeepSeek and Qwen write (``weight_scale_inv``, 128 x 128 blocks), ``compressed-tensors`` what
llm-compressor does (``weight_scale``). Which tensors are quantized is told by their dtype: norms, embeddings and
whatever the config leaves out are stored plainly beside them. Activations are not quantized here: products are in
the model's dtype.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from zif.contract.errors import UnsupportedModel, WeightsError
from zif.contract.weights import Encoded, HostArray, Shape
from zif.weights.formats.format import Wanted, WeightFormat

if TYPE_CHECKING:
    from zif.weights.checkpoint import Tensors

FORMAT = "fp8"
"""Of an :class:`Encoded`: ``weight`` [..., out, in] float8_e4m3fn, ``scale`` [..., tiles of rows, tiles of columns]
float32, and in ``facts`` the (rows, columns) of a tile. Where tiles do not divide a weight, the last are cut short."""
_DTYPE = "float8_e4m3fn"
_SCALES = ("float32", "bfloat16", "float16")
_ROWS = 256  # decoded at a time, so that no second copy in float32 is there


class Fp8(WeightFormat):
    """``quant_method`` fp8."""

    spare = (".input_scale", ".activation_scale")
    suffixes: tuple[str, ...] = ("_scale_inv", "_scale")
    known = frozenset(
        {"quant_method", "fmt", "activation_scheme", "weight_block_size", "modules_to_not_convert", "ignored_layers",
         "scale_fmt", "dequantize"}
    )  # fmt: skip

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config)
        self.parse()

    def parse(self) -> None:
        """Check what the config says, and keep what is needed of it."""
        allow(self.config, "fmt", None, "e4m3")
        allow(self.config, "activation_scheme", None, "dynamic", "static")
        allow(self.config, "scale_fmt", None, "float", "ue8m0")
        strange = sorted(key for key, value in self.config.items() if key not in self.known and value)
        if strange:
            raise UnsupportedModel(f"it has {', '.join(strange)}, which zif does not know")
        self.block = block(self.config, "weight_block_size")

    def tile(self, shape: Shape) -> tuple[int, int]:
        """Rows and columns of a weight of ``shape`` that a scale is for."""
        return self.block or (shape[-2], shape[-1])

    def wanted(self, name: str, shape: Shape, tensors: Tensors) -> Iterable[Wanted]:
        found = tensors.stored(name)
        if found is None or found.dtype.name != _DTYPE or len(shape) < 2:
            return (Wanted(name, (shape,)),)
        tiles = _tiles(shape, self.tile(shape))
        shapes = (tiles, (), (1,)) if set(tiles) == {1} else (tiles,)
        names = [name + suffix for suffix in self.suffixes]
        scale = next((each for each in names if tensors.stored(each) is not None), names[0])
        return (Wanted(name, (shape,), (_DTYPE,)), Wanted(scale, shapes, _SCALES))

    def encoded(self, name: str, shape: Shape, tensors: Tensors) -> Encoded | None:
        wanted = tuple(self.wanted(name, shape, tensors))
        if len(wanted) == 1:
            return None
        scale, tile = wanted[1], self.tile(shape)
        factors = tensors.read(scale.name).astype(np.float32).reshape(scale.shapes[0])
        if not np.isfinite(factors).all():
            raise WeightsError(f"{scale.name} has scales that are no finite numbers; looked at {tensors.where}")
        return Encoded(FORMAT, shape, {"weight": tensors.read(name), "scale": factors}, tile)

    def decode(self, encoded: Encoded, dtype: str) -> HostArray:
        codes, scale, (high, wide) = encoded.arrays["weight"].view(np.uint8), encoded.arrays["scale"], encoded.facts
        rows = encoded.shape[-2]
        out = np.empty(encoded.shape, np.dtype(dtype))
        for at in np.ndindex(encoded.shape[:-2]):
            for first in range(0, rows, _ROWS):
                last = min(first + _ROWS, rows)
                values, factors = _values()[codes[at][first:last]], scale[at][np.arange(first, last) // high]
                for tile in range(factors.shape[1]):
                    values[:, tile * wide : (tile + 1) * wide] *= factors[:, tile, None]
                out[at][first:last] = values
        return out


class CompressedFp8(Fp8):
    """``quant_method`` compressed-tensors, of weights in eight-bit floats alone."""

    suffixes = ("_scale",)

    def parse(self) -> None:
        allow(self.config, "format", "float-quantized")
        groups = self.config.get("config_groups")
        if not isinstance(groups, Mapping) or len(groups) != 1:
            raise UnsupportedModel("config_groups is not one group; zif reads weights that are all quantized alike")
        weights = next(iter(groups.values())).get("weights") or {}
        allow(weights, "type", "float")
        allow(weights, "num_bits", 8)
        allow(weights, "symmetric", True)
        allow(weights, "dynamic", None, False)
        allow(weights, "strategy", "tensor", "channel", "block")
        self.strategy = weights["strategy"]
        self.block = block(weights, "block_structure") if self.strategy == "block" else None

    def tile(self, shape: Shape) -> tuple[int, int]:
        return (1, shape[-1]) if self.strategy == "channel" else super().tile(shape)


def allow(config: Mapping[str, Any], field: str, *values: Any) -> None:
    """Raise UnsupportedModel unless ``field`` has one of ``values``; None among them is that it may be missing."""
    if config.get(field) not in values:
        told = " or ".join(str(value) for value in values if value is not None)
        raise UnsupportedModel(f"{field} is {config.get(field)!r}; zif reads {told}")


def _tiles(shape: Shape, tile: tuple[int, int]) -> Shape:
    return (*shape[:-2], -(-shape[-2] // tile[0]), -(-shape[-1] // tile[1]))


def block(config: Mapping[str, Any], field: str) -> tuple[int, int] | None:
    """Two sizes, or None where there are none. Raises UnsupportedModel for anything else."""
    sizes = config.get(field)
    if sizes is None:
        return None
    whole = isinstance(sizes, list | tuple) and len(sizes) == 2
    if not whole or not all(type(size) is int and size > 0 for size in sizes):
        raise UnsupportedModel(f"{field} is {sizes!r}, not the rows and columns of a block")
    return sizes[0], sizes[1]


@cache
def _values() -> HostArray:
    """The number that each of the 256 codes stands for, in float32."""
    return np.arange(256, dtype=np.uint8).view(np.dtype(_DTYPE)).astype(np.float32)
