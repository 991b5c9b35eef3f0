"""The model that comes with zif: small enough for the package, and trained to be scored."""

from __future__ import annotations

from pathlib import Path

NAME = "zif-pocket"


def path() -> Path:
    """The directory of its checkpoint: config, weights, tokenizer."""
    return Path(__file__).parent
