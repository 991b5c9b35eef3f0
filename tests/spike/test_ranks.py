"""Latent attention and experts on several ranks: heads and inner units divided, latents and the router on each."""

from __future__ import annotations

import pytest

from backend.ranks import on_ranks
from spike.frameworks import TORCH
from spike.loop import Loop
from spike.shared import COUNT, DEEPSEEK, WORK, expected


@pytest.mark.parametrize("size", [2, 4])
def test_ranks_give_the_tokens_of_the_specifications(size: int) -> None:
    tokens, meeting = on_ranks(size, lambda backend: Loop(TORCH, DEEPSEEK, backend=backend).generate(WORK, COUNT))
    assert tokens == [expected(DEEPSEEK)[0]] * size
    # a step: the embedding's, attention's of each layer, and one for routed and shared experts together
    assert meeting.reduced == COUNT * (1 + 2 * DEEPSEEK.num_layers)
    assert meeting.gathered == COUNT
