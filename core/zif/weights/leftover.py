"""Tensors of a checkpoint that the model does not use: named where that is safe, refused where it is not.

Safe is what belongs to another part (a vision tower, layers that predict further tokens), and what
the model computes itself. A tensor inside the layers that are served, left out, would change what they compute.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

_COMPUTED = ("rotary_emb.inv_freq", ".masked_bias")
"""Buffers that older checkpoints carry along: not worth a word."""
_OF_CACHES = (".k_scale", ".v_scale", ".output_scale", ".kv_scale")
"""Scales for storing keys and values in eight bits, which zif stores without any."""
_NUMBER = re.compile(r"\.(\d+)\.")


def sort_leftovers(
    unused: Collection[str], used: Collection[str], config: Mapping[str, Any]
) -> tuple[list[str], list[str]]:
    """Sort ``unused`` names into those to mention and those to refuse; ``used`` are names in the same checkpoint."""
    modules = {name.rpartition(".")[0] for name in used}
    stacks = {_stack(name) for name in used} - {None}
    layers = max((_layer(name) for name in used), default=-1) + 1
    further = config.get("num_nextn_predict_layers")
    ahead = range(layers, layers + further) if isinstance(further, int) else range(0)
    safe, refused = [], []
    for name in unused:
        if name.endswith(_COMPUTED):
            continue
        ours = name.rpartition(".")[0] in modules or _stack(name) in stacks
        if ours and _layer(name) not in ahead and not name.endswith(_OF_CACHES):
            refused.append(name)
        else:
            safe.append(name)
    return safe, refused


def _stack(name: str) -> str | None:
    """What is before a name's first number: "model.layers" of a tensor of the third layer."""
    found = _NUMBER.search(name)
    return name[: found.start()] if found else None


def _layer(name: str) -> int:
    """A name's first number, -1 if it has none."""
    found = _NUMBER.search(name)
    return int(found[1]) if found else -1
