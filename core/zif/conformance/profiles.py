"""Which ops each profile requires, by version of the plugin API.

A backend that claims a profile must serve every op of it, through a kernel of its own, a composite
or its framework's reference. The lists are written out, so that to require more of plugins is a
change that someone makes on purpose.
"""

from __future__ import annotations

from collections.abc import Mapping

REQUIRED: Mapping[int, Mapping[str, tuple[str, ...]]] = {
    1: {
        "array": ("where", "arange", "cast", "put", "add_at", "concat", "repeat"),
        "llm": (
            "embedding", "linear", "logits", "gated_linear", "rms_norm", "add_norm", "add", "gated_activation",
            "softcap", "rope_angles", "rope", "kv_write", "rope_and_cache", "paged_attention", "attention",
            "decode_inputs", "mixed_inputs", "penalize", "argmax", "sample", "filter_logits", "sample_rows", "logprobs",
        ),
        "moe": ("route", "moe"),
        "mla": ("head_linear", "latent_write", "absorbed_attention", "latent_attention"),
    },
}  # fmt: skip


def required(profiles: tuple[str, ...], version: int) -> list[str]:
    """Ops that a backend claiming ``profiles`` must serve; array ops are asked of any that claims one.

    Raises KeyError for a profile that this version does not have.
    """
    if not profiles:
        return []
    lists = REQUIRED[version]
    names = [op for profile in ("array", *profiles) for op in lists[profile]]
    return list(dict.fromkeys(names))
