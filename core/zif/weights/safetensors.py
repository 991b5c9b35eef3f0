"""Reading safetensors files: zero-copy views over memory-mapped pages.

The package's own numpy reader knows no bfloat16 or float8; the format is a length, a JSON header
and the bytes (https://github.com/huggingface/safetensors#format), so this reads it itself.
"""

from __future__ import annotations

import json
import math
import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from zif.contract.errors import WeightsError
from zif.contract.weights import HostArray

_DTYPES: dict[str, Any] = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2,
    "I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8,
    "U64": np.uint64, "U32": np.uint32, "U16": np.uint16, "U8": np.uint8, "BOOL": np.bool_,
}  # fmt: skip
_LONGEST_HEADER = 100_000_000  # the format's own bound


@dataclass(frozen=True, slots=True)
class Stored:
    """Where a tensor lies in its file: bytes [start, stop) from the file's beginning."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def nbytes(self) -> int:
        return self.stop - self.start


class SafetensorsFile:
    """One file, mapped. ``tensors`` says what is in it; nothing is read until a view is used."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:  # ValueError: the file is empty
            raise WeightsError(f"{path} cannot be read: {error}") from error
        try:
            self.tensors = self._parse()
        except (KeyError, TypeError, ValueError) as error:
            raise WeightsError(f"{path} is not a safetensors file, or is cut short: {error}") from error

    def view(self, name: str) -> HostArray:
        """The tensor as a read-only view of the file's pages."""
        stored = self.tensors[name]
        count = math.prod(stored.shape)
        return np.frombuffer(self._map, stored.dtype, count, stored.start).reshape(stored.shape)

    def release(self, name: str) -> None:
        """Give back the memory that reading the tensor took; it stays readable, from the file."""
        stored = self.tensors[name]
        first = -(-stored.start // mmap.PAGESIZE) * mmap.PAGESIZE
        last = stored.stop // mmap.PAGESIZE * mmap.PAGESIZE
        if first < last and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED, first, last - first)

    def _parse(self) -> dict[str, Stored]:
        length = int.from_bytes(self._map[:8], "little")
        if len(self._map) < 8 or length > min(_LONGEST_HEADER, len(self._map) - 8):
            raise ValueError(f"a header of {length} bytes in a file of {len(self._map)}")
        header = json.loads(self._map[8 : 8 + length])
        header.pop("__metadata__", None)
        return {name: self._stored(name, entry, 8 + length) for name, entry in header.items()}

    def _stored(self, name: str, entry: dict[str, Any], base: int) -> Stored:
        if entry["dtype"] not in _DTYPES:
            raise ValueError(f"tensor {name} has the unknown dtype {entry['dtype']}")
        start, stop = (base + offset for offset in entry["data_offsets"])
        stored = Stored(np.dtype(_DTYPES[entry["dtype"]]), tuple(entry["shape"]), start, stop)
        if stored.nbytes != math.prod(stored.shape) * stored.dtype.itemsize or not base <= start <= stop:
            raise ValueError(f"tensor {name} has {stored.nbytes} bytes for {entry['dtype']} {list(stored.shape)}")
        if stop > len(self._map):
            raise ValueError(f"tensor {name} ends at byte {stop} of {len(self._map)}")
        return stored
