"""A weight as its checkpoint stores it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from zif.contract.weights.shard import HostArray


@dataclass(frozen=True)
class Encoded:
    """A tensor that a model calls by one name and shape, as it is stored: nothing is lost, nothing is decoded.

    ``format`` says what ``arrays`` and ``facts`` (hashable) mean; the formats are in :mod:`zif.weights.formats`.
    """

    format: str
    shape: tuple[int, ...]
    arrays: Mapping[str, HostArray]
    facts: tuple[Any, ...] = ()
