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
from zif.files import refuse_pointer

_DTYPES: dict[str, Any] = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2,
    "I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8,
    "U64": np.uint64, "U32": np.uint32, "U16": np.uint16, "U8": np.uint8, "BOOL": np.bool_,
}  # fmt: skip
_LONGEST_HEADER = 100_000_000  # the format's own bound
_MOST_AXES = 8


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
        refuse_pointer(path, self._map[:64])
        try:
            self.tensors = self._parse()
        except (ValueError, RecursionError) as error:
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
        header = json.loads(self._map[8 : 8 + length], object_pairs_hook=_once)
        if not isinstance(header, dict):
            raise ValueError("its header is no JSON object")
        header.pop("__metadata__", None)
        tensors = {name: _stored(name, entry, 8 + length, len(self._map)) for name, entry in header.items()}
        end, before = 0, ""
        for name, stored in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].stop)):
            if stored.start < end:
                raise ValueError(f"tensors {before} and {name} overlap")
            end, before = stored.stop, name
        return tensors


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose names are there once: of two tensors of a name, readers would take different ones."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("its header names a tensor twice")
    return found


def _stored(name: str, entry: Any, base: int, end: int) -> Stored:
    """A header's entry, checked; tensors lie in bytes [base, end) of the file."""
    match entry:
        case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [int(first), int(last)]}:
            pass
        case _:
            raise ValueError(f"tensor {name} is described as {str(entry)[:80]}")
    if dtype not in _DTYPES:
        raise ValueError(f"tensor {name} has the unknown dtype {dtype}")
    if not all(type(size) is int and size >= 0 for size in shape) or len(shape) > _MOST_AXES:
        raise ValueError(f"tensor {name} has the shape {str(shape)[:80]}")
    stored = Stored(np.dtype(_DTYPES[dtype]), tuple(shape), base + first, base + last)
    if stored.nbytes != math.prod(shape) * stored.dtype.itemsize or not 0 <= first <= last:
        raise ValueError(f"tensor {name} has {stored.nbytes} bytes for {dtype} {shape}")
    if stored.stop > end:
        raise ValueError(f"tensor {name} ends at byte {stored.stop} of {end}")
    return stored
