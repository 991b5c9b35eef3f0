"""What models read from config.json: both dialects of it, scalings, windows, and clear refusals."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backend.checkpoints import SIZES, VOCAB, save
from backend.driver import Driver, model_of
from zif.contract.errors import UnsupportedModel
from zif.weights import Checkpoint
from zif_models import ARCHITECTURES, resolve
from zif_models.config import Config
from zif_models.layers import LayerKind, Segment, segments
from zif_models.rope import rope_parameters, rope_spec

LLAMA = {**SIZES, "architectures": ["LlamaForCausalLM"]}

# as published, with the transformers class that reads them
PUBLISHED: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama 3.1 8B": (
        "LlamaConfig",
        {
            "hidden_size": 4096, "num_attention_heads": 32, "max_position_embeddings": 131072, "rope_theta": 500000.0,
            "rope_scaling": {
                "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192, "rope_type": "llama3",
            },
        },
    ),
    "Qwen2.5 7B with YaRN": (
        "Qwen2Config",
        {
            "hidden_size": 3584, "num_attention_heads": 28, "max_position_embeddings": 32768, "rope_theta": 1000000.0,
            "rope_scaling": {"factor": 4.0, "original_max_position_embeddings": 32768, "type": "yarn"},
        },
    ),
    "YaRN, mscale": (
        "LlamaConfig",
        {
            "hidden_size": 2048, "num_attention_heads": 16, "max_position_embeddings": 65536,
            "rope_scaling": {
                "type": "yarn", "factor": 16.0, "original_max_position_embeddings": 4096, "beta_fast": 48,
                "mscale": 1.2, "mscale_all_dim": 0.8, "truncate": False,
            },
        },
    ),
    "vicuna 16k": (
        "LlamaConfig",
        {"hidden_size": 4096, "num_attention_heads": 32, "rope_scaling": {"factor": 4.0, "type": "linear"}},
    ),
    "NTK": (
        "LlamaConfig",
        {"hidden_size": 4096, "num_attention_heads": 32, "rope_scaling": {"factor": 4.0, "type": "dynamic"}},
    ),
    "Phi-3.5 mini": (
        "Phi3Config",
        {
            "hidden_size": 3072, "num_attention_heads": 32, "max_position_embeddings": 131072,
            "original_max_position_embeddings": 4096,
            "rope_scaling": {
                "type": "longrope", "short_factor": [1 + i / 48 for i in range(48)],
                "long_factor": [1 + i for i in range(48)],
            },
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("length", [2048, 131072])
@pytest.mark.parametrize("name", PUBLISHED)
def test_frequencies_are_those_of_transformers(name: str, length: int) -> None:
    """Also for a served context beyond the trained one, where the scaling depends on it."""
    import transformers
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    kind, values = PUBLISHED[name]
    theirs = getattr(transformers, kind)(**json.loads(json.dumps(values)))
    scaling = theirs.rope_parameters["rope_type"]
    wanted, attention_factor = ROPE_INIT_FUNCTIONS[scaling](theirs, seq_len=length)
    config = Config({"max_position_embeddings": 2048, **values, "served_context_length": length}, {})
    parameters = rope_parameters(config)
    assert parameters["rope_type"] == scaling
    found = rope_spec(config, parameters)
    np.testing.assert_allclose(found.inv_freq, wanted.numpy(), rtol=1e-5)
    assert found.attention_factor == pytest.approx(attention_factor)


def test_longrope_takes_its_long_factors_beyond_the_trained_context(tmp_path: Path) -> None:
    saved = save("phi3-longrope", tmp_path)
    tokens = np.random.default_rng(0).integers(1, VOCAB, 80).tolist()  # trained: 64
    found = Driver(Checkpoint(tmp_path)).feed({0: tokens})[0]
    np.testing.assert_allclose(found, saved.logits(tokens), rtol=1e-4, atol=5e-5)


def test_dynamic_scaling_is_that_of_the_served_context(tmp_path: Path) -> None:
    saved = save("llama-dynamic", tmp_path)
    tokens = np.random.default_rng(0).integers(1, VOCAB, 150).tolist()  # trained: 128
    found = Driver(Checkpoint(tmp_path), context_length=150).feed({0: tokens})[0]
    np.testing.assert_allclose(found, saved.logits(tokens), rtol=1e-4, atol=5e-5)


GEMMA3 = {
    **SIZES, "architectures": ["Gemma3ForCausalLM"], "num_hidden_layers": 7, "sliding_window": 8, "head_dim": 16,
}  # fmt: skip
LINEAR = {"rope_type": "linear", "factor": 8.0}


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        (
            {**LLAMA, "rope_theta": 500.0, "rope_scaling": {"type": "linear", "factor": 2.0}},
            {**LLAMA, "rope_parameters": {"rope_type": "linear", "rope_theta": 500.0, "factor": 2.0}},
        ),
        ({**LLAMA, "rope_theta": 500.0, "rope_scaling": None}, {**LLAMA, "rope_parameters": {"rope_theta": 500.0}}),
        (
            {**GEMMA3, "rope_theta": 5e5, "rope_local_base_freq": 5e3, "rope_scaling": LINEAR},
            {
                **GEMMA3,
                "layer_types": ["sliding_attention"] * 5 + ["full_attention"] + ["sliding_attention"],
                "rope_parameters": {
                    "full_attention": {**LINEAR, "rope_theta": 5e5},
                    "sliding_attention": {"rope_type": "default", "rope_theta": 5e3},
                },
            },
        ),
        (
            {**LLAMA, "architectures": ["Phi3ForCausalLM"], "rope_scaling": {
                "type": "su", "short_factor": [1.0] * 8, "long_factor": [2.0] * 8}},
            {**LLAMA, "architectures": ["Phi3ForCausalLM"], "rope_parameters": {
                "rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": [2.0] * 8}},
        ),
        (
            {**LLAMA, "architectures": ["Qwen2ForCausalLM"], "use_sliding_window": True, "sliding_window": 8,
             "max_window_layers": 2},
            {**LLAMA, "architectures": ["Qwen2ForCausalLM"], "use_sliding_window": True, "sliding_window": 8,
             "layer_types": ["full_attention", "full_attention", "sliding_attention"]},
        ),
    ],
    ids=["llama-linear", "llama", "gemma3", "phi3", "qwen2"],
)  # fmt: skip
def test_both_dialects_of_a_config_mean_the_same(older: dict[str, Any], newer: dict[str, Any]) -> None:
    assert model_of(older) == model_of(newer)


def test_config_leaves_out_what_gemma3_has_by_default() -> None:
    """The hub's gemma-3-4b-it says this much and no more of its language model."""
    text = {
        "hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text", "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024,
    }  # fmt: skip
    model = model_of({"architectures": ["Gemma3ForConditionalGeneration"], "text_config": text})
    assert (model.vocab_size, model.context_length, model.num_layers) == (262_208, 131_072, 34)
    windows, full = model.cache_groups
    assert (windows.layers, windows.window, full.layers, full.window) == (29, 1024, 5, None)
    assert [spec.head_dim for spec in model.attention_specs] == [256, 256]
    local, overall = (spec.rope for spec in model.attention_specs)
    assert local is not None
    assert overall is not None
    assert local.inv_freq[1] == pytest.approx(10_000 ** (-2 / 256))
    assert overall.inv_freq[1] == pytest.approx(1_000_000 ** (-2 / 256) / 8)


def test_yarn_extends_the_context_that_is_served() -> None:
    yarn = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
    assert model_of(LLAMA).context_length == 128
    assert model_of({**LLAMA, "rope_scaling": yarn}).context_length == 512
    assert model_of({**LLAMA, "rope_scaling": yarn}, context_length=200).context_length == 200


def test_window_longer_than_the_served_context_is_no_window() -> None:
    config = {**LLAMA, "architectures": ["MistralForCausalLM"], "sliding_window": 64}
    assert [group.kind for group in model_of(config).cache_groups] == ["window"]
    assert [group.kind for group in model_of(config, context_length=64).cache_groups] == ["paged"]


def test_body_repeats_as_few_blocks() -> None:
    spec = model_of(LLAMA).attention_specs[0]
    by_letter = {letter: LayerKind(replace_group(spec, letter)) for letter in "FL"}

    def shape_of(layers: str) -> list[tuple[int, str, int]]:
        found = segments([by_letter[letter] for letter in layers])
        return [(part.first, "".join(kind.attention.group for kind in part.pattern), part.count) for part in found]

    assert shape_of("F" * 32) == [(0, "F", 32)]
    assert shape_of("LF" * 13) == [(0, "LF", 13)]
    assert shape_of("LLLLLF" * 4 + "LL") == [(0, "LLLLLF", 4), (24, "L", 2)]
    assert shape_of("FFFFLLL") == [(0, "F", 4), (4, "L", 3)]
    assert shape_of("F") == [(0, "F", 1)]


def replace_group(spec: Any, group: str) -> Any:
    from dataclasses import replace

    return replace(spec, group=group)


@pytest.mark.parametrize("start", range(8))
def test_segment_is_cut_anywhere(start: int) -> None:
    kind = LayerKind(model_of(LLAMA).attention_specs[0])
    segment = Segment(3, (kind,) * 3, 4, ((0, 3), (1, 3), (2, 3)))
    for stop in range(start, 20):
        layers = [
            segment.first + block * 3 + at
            for piece in segment.pieces(start, stop)
            for block in range(piece.start, piece.stop)
            for at in range(piece.first, piece.last)
        ]
        assert layers == [layer for layer in range(start, stop) if layer in segment.layers]


# --- refusals --------------------------------------------------------------------------------


def test_unknown_architecture_lists_those_that_are_known() -> None:
    with pytest.raises(UnsupportedModel, match="unknown architecture 'BertForMaskedLM'") as error:
        resolve({"architectures": ["BertForMaskedLM"]})
    assert all(name in str(error.value) for name in ARCHITECTURES)
    with pytest.raises(UnsupportedModel, match=r"config\.json names no architecture"):
        resolve({})


def test_every_architecture_has_its_module() -> None:
    for name in ARCHITECTURES:
        assert callable(resolve({"architectures": [name]}).build)


def test_plugins_add_architectures_and_replace_them(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("acme_models")
    module.build = lambda values: "acme"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "acme_models", module)
    extra = {"AcmeForCausalLM": "acme_models", "LlamaForCausalLM": "acme_models"}
    built: list[Any] = [resolve({"architectures": [name]}, extra).build({}) for name in extra]
    assert built == ["acme", "acme"]
    with pytest.raises(UnsupportedModel, match="module no_such_module cannot be imported"):
        resolve({"architectures": ["X"]}, {"X": "no_such_module"})
    with pytest.raises(UnsupportedModel, match="module json has no function build"):
        resolve({"architectures": ["X"]}, {"X": "json"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rope_scaling": {"rope_type": "spiral"}}, "rope type 'spiral' is unknown; known: default, linear, dynamic"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "'llama3' needs the parameter 'low_freq_factor'"),
        ({"rope_scaling": {"type": "longrope", "short_factor": [1.0], "long_factor": [1.0]}}, "1 rope factors for 8"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu', not one of silu"),
        ({"vocab_size": None}, "no 'vocab_size', which this architecture needs"),
        ({"hidden_size": "big"}, "hidden_size is 'big', not a positive whole number"),
        ({"rms_norm_eps": True}, "rms_norm_eps is True, not a number"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings is 1, not true or false"),
        ({"head_dim": 5}, "5 rotary dimensions of a head"),
        (
            {"architectures": ["Gemma2ForCausalLM"], "layer_types": ["chunked_attention"] * 3},
            "chunked_attention.*known: full_attention, sliding_attention",
        ),
        ({"architectures": ["Gemma2ForCausalLM"], "layer_types": ["full_attention"]}, "1 entries for 3 layers"),
        (
            {"architectures": ["Gemma3ForCausalLM"], "use_bidirectional_attention": True},
            "attention to later tokens is not supported yet",
        ),
    ],
)
def test_refusals_name_what_is_wrong(change: dict[str, Any], message: str) -> None:
    config = {**LLAMA, **change}
    with pytest.raises(UnsupportedModel, match=message):
        model_of(config)
