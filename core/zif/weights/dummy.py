"""Random weights for benchmarks and tests, where no tensor of a checkpoint is at hand."""

from __future__ import annotations

import math
import zlib

import ml_dtypes  # noqa: F401  (registers bfloat16 with numpy)
import numpy as np

from zif.contract.weights import HostArray

_BLOCK = 1_048_573  # a prime, so that rows of common widths differ


class DummyTensors:
    """Tensors of any name and shape: matrices of normals scaled by 1/sqrt(inputs), vectors of about one.

    The same name and shape give the same values. All are cut from one block of normals, again and
    again, so that making them costs little more than copying them.
    """

    def __init__(self, dtype: str) -> None:
        self._dtype = np.dtype(dtype)
        self._normals = np.random.default_rng(0).standard_normal(_BLOCK, dtype=np.float32)
        self._blocks: dict[tuple[float, float], HostArray] = {}

    def nbytes(self, name: str, shape: tuple[int, ...]) -> int:
        """Size in bytes."""
        return math.prod(shape) * self._dtype.itemsize

    def read(self, name: str, shape: tuple[int, ...], dtype: str) -> HostArray:
        """A new tensor."""
        block = self._block(name, shape)
        values = np.empty(math.prod(shape), self._dtype)
        at, start = 0, zlib.crc32(name.encode()) % _BLOCK
        while at < len(values):
            count = min(len(values) - at, _BLOCK - start)
            values[at : at + count] = block[start : start + count]
            at, start = at + count, 0
        return values.reshape(shape)

    def _block(self, name: str, shape: tuple[int, ...]) -> HostArray:
        """The block of normals, with the mean and deviation that a tensor of this name and shape has."""
        mean, deviation = 0.0, shape[-1] ** -0.5
        if len(shape) == 1:
            mean, deviation = (0.0 if name.endswith(".bias") else 1.0), 0.1
        if (mean, deviation) not in self._blocks:
            self._blocks[mean, deviation] = (self._normals * deviation + mean).astype(self._dtype)
        return self._blocks[mean, deviation]

    def encoded(self, name: str, shape: tuple[int, ...]) -> None:
        """None is."""

    def release(self, name: str, shape: tuple[int, ...]) -> None:
        """Nothing is kept."""


class Shapes:
    """Tensors of any name and shape that take no memory: for packers that read nothing but shapes."""

    def __init__(self, dtype: str) -> None:
        self._zero = np.zeros((), np.dtype(dtype))

    def nbytes(self, name: str, shape: tuple[int, ...]) -> int:
        """Size in bytes, were it there."""
        return math.prod(shape) * self._zero.itemsize

    def read(self, name: str, shape: tuple[int, ...], dtype: str) -> HostArray:
        """One element, as large as it is asked for."""
        return np.broadcast_to(self._zero, shape)

    def encoded(self, name: str, shape: tuple[int, ...]) -> None:
        """None is."""

    def release(self, name: str, shape: tuple[int, ...]) -> None:
        """Nothing is kept."""
