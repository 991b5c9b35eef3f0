"""Which part of a model's weights a rank holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

HostArray = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Shard:
    """Rank ``rank`` of ``size``."""

    rank: int
    size: int

    def slice(self, whole: int, local: int) -> slice:
        """The rank's ``local`` of ``whole`` rows, columns or heads, which ranks next to each other may share."""
        copies, rest = divmod(local * self.size, whole)
        assert copies and not rest and self.size % copies == 0, f"{self.size} ranks of {local} do not tile {whole}"
        start = self.rank // copies * local
        return slice(start, start + local)

    def vocab_rows(self, table: HostArray, local: int) -> HostArray:
        """The rank's rows of ``table`` [vocab, ...], zeros behind its end."""
        rows = table[self.rank * local : (self.rank + 1) * local]
        if len(rows) == local:
            return rows
        return np.concatenate([rows, np.zeros((local - len(rows), *table.shape[1:]), table.dtype)])

    def once(self, addend: HostArray) -> HostArray:
        """What is added to a sum over ranks, a bias of rows: the first rank's, zeros on the others."""
        return addend if self.rank == 0 else np.zeros_like(addend)


ALONE = Shard(0, 1)
