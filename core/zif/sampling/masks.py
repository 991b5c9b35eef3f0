"""Masks of the tokens that may come next, made on the host while the device computes."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

Mask = np.ndarray[Any, np.dtype[np.int32]]


class MaskProvider(Protocol):
    """The masks of one request, one a token that it is given. What they follow from is its own affair.

    It is asked for each mask until that is there, and is told of the token that was drawn by it.
    """

    def advance(self, token: int) -> None:
        """The request's next token is ``token``: begin to make the mask of the one behind. Returns soon."""
        ...

    def mask(self, timeout: float) -> Mask | None:
        """Of the next token, [ceil(vocab / 32)] int32 as ``mask_logits`` takes it; None if it is still being made.

        It is waited for as many seconds as ``timeout`` says.
        """
        ...
