"""Configs from anywhere: each value of each key is taken, or refused by a readable line, at once."""

from __future__ import annotations

import time
from typing import Any

import pytest

import zif_models
from zif.contract.errors import UnsupportedModel

BASE: dict[str, Any] = {
    "vocab_size": 128, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 128, "rms_norm_eps": 1e-6,
    "rope_theta": 1e4, "sliding_window": 16, "use_sliding_window": True, "max_window_layers": 2,
    "sliding_window_pattern": 2, "layer_types": None, "tie_word_embeddings": True, "hidden_act": "silu",
    "hidden_activation": "gelu_pytorch_tanh", "attention_bias": False, "mlp_bias": False, "partial_rotary_factor": 1.0,
    "rope_scaling": None, "rope_parameters": None, "served_context_length": 64, "text_config": None,
    "rope_local_base_freq": 1e4, "original_max_position_embeddings": 64,
}  # fmt: skip
OF_GEMMA = {"query_pre_attn_scalar": 16, "attn_logit_softcapping": None, "final_logit_softcapping": None}
HOSTILE: list[Any] = [
    None, True, False, 0, 1, -1, 3, 10**9, 2**40, 10**400, 0.0, 0.5, -1.5, 1e308, float("nan"), float("inf"), "", "8",
    "\x00", [], [1], ["x"], [[]], {}, {"a": 1}, {"full_attention": 3}, ["full_attention"] * 4,
]  # fmt: skip
SCALINGS: list[dict[str, Any]] = [
    {"rope_type": "linear", "factor": 2.0},
    {"rope_type": "dynamic", "factor": 2.0},
    {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    {"rope_type": "yarn", "factor": 4.0, "beta_fast": 32, "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 1.0},
    {"rope_type": "longrope", "factor": 2.0, "short_factor": [1.0] * 8, "long_factor": [2.0] * 8},
]


def build(architecture: str, config: dict[str, Any]) -> None:
    """Build what is asked for: a model, or a refusal that fits a line, within a moment."""
    begin = time.monotonic()
    said = ""
    try:
        model = zif_models.resolve(config).build(config)
    except UnsupportedModel as refusal:
        said = str(refusal)
    else:
        assert 0 < model.num_layers <= 4096
        assert 0 < model.context_length < 2**31
        model.weights()
    assert "\n" not in said
    assert len(said) < 600
    assert time.monotonic() - begin < 10, config


def base(architecture: str) -> dict[str, Any]:
    config = {**BASE, "architectures": [architecture]}
    return config | OF_GEMMA if "Gemma" in architecture else config


@pytest.mark.parametrize("architecture", sorted(zif_models.ARCHITECTURES))
def test_a_hostile_value_is_refused_or_used(architecture: str) -> None:
    model = zif_models.resolve(base(architecture)).build(base(architecture))
    assert model.num_layers == 4
    for key in base(architecture):
        for value in HOSTILE:
            build(architecture, base(architecture) | {key: value})


@pytest.mark.parametrize("scaling", SCALINGS, ids=lambda scaling: str(scaling["rope_type"]))
@pytest.mark.parametrize("architecture", ["LlamaForCausalLM", "Phi3ForCausalLM", "Gemma3ForCausalLM"])
def test_a_hostile_rope_is_refused_or_used(architecture: str, scaling: dict[str, Any]) -> None:
    for key in (*scaling, "rope_theta", "original_max_position_embeddings", "truncate"):
        for value in HOSTILE:
            changed = {**scaling, key: value}
            build(architecture, base(architecture) | {"rope_scaling": changed})
            build(architecture, base(architecture) | {"rope_scaling": None, "rope_parameters": changed})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000, not at most 4096"),
        ({"head_dim": 2**40}, "head_dim is 1099511627776, not at most 8192"),
        ({"rope_theta": 0}, "rope_theta is 0, not a number above 1"),
        ({"rope_scaling": {"rope_type": "linear", "factor": "4"}}, "factor is '4', not a number"),
        ({"rope_scaling": "linear"}, "rope_scaling is 'linear', not an object"),
        ({"num_key_value_heads": 3}, "num_key_value_heads is 3, not a divisor of num_attention_heads, 4"),
        ({"architectures": "LlamaForCausalLM"}, "architectures is not a list of names"),
        ({"layer_types": 4, "use_sliding_window": True, "architectures": ["Qwen2ForCausalLM"]}, "not a list of names"),
        ({"logits_scaling": 8.0}, "logits_scaling=8.0: scaled logits is not supported yet"),
        ({"attn_logit_softcapping": 1.0}, "a bound on attention scores is not supported yet"),
        ({"num_local_experts": 8}, "a mixture of experts is not supported yet"),
    ],
)
def test_refusals_say_what_is_wrong(change: dict[str, Any], message: str) -> None:
    config = base("LlamaForCausalLM") | change
    with pytest.raises(UnsupportedModel, match=message):
        zif_models.resolve(config).build(config)


@pytest.mark.parametrize("change", [{"logits_scaling": 1.0}, {"attn_logit_softcapping": None}, {"num_experts": 0}])
def test_facts_that_set_nothing_are_no_hindrance(change: dict[str, Any]) -> None:
    build_ok = base("LlamaForCausalLM") | change
    assert zif_models.resolve(build_ok).build(build_ok).num_layers == 4
