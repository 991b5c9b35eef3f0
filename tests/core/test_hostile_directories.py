"""Model directories from anywhere: each is refused by one readable line, within a moment, before memory is taken."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from zif.contract.errors import InvalidSettings, OutOfMemory, UnsupportedModel, WeightsError, ZifError
from zif.null.backend import NullBackend
from zif.process.build import build_engine
from zif.settings import Settings
from zif.tokenizer import load_tokenizer

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "vocab_size": 32, "hidden_size": 16, "intermediate_size": 16,
    "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 64,
    "rms_norm_eps": 1e-6, "tie_word_embeddings": True, "torch_dtype": "float32",
}  # fmt: skip
SHAPES: dict[str, tuple[int, ...]] = {
    "model.embed_tokens.weight": (32, 16),
    "model.norm.weight": (16,),
    "model.layers.0.input_layernorm.weight": (16,),
    "model.layers.0.post_attention_layernorm.weight": (16,),
    **{f"model.layers.0.self_attn.{name}_proj.weight": (16, 16) for name in "qkvo"},
    **{f"model.layers.0.mlp.{name}_proj.weight": (16, 16) for name in ("gate", "up", "down")},
}


def safetensors(shapes: dict[str, tuple[int, ...]], dtype: str = "F32", fill: int = 0) -> bytes:
    header: dict[str, Any] = {}
    size = {"F32": 4, "F8_E4M3": 1}[dtype]
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + int(np.prod(shape)) * size
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    return with_header(json.dumps(header), bytes([fill]) * end)


def with_header(header: str, content: bytes = b"") -> bytes:
    encoded = header.encode()
    return len(encoded).to_bytes(8, "little") + encoded + content


def one(entry: Any, content: bytes = bytes(16)) -> bytes:
    return with_header(json.dumps({"a": entry}), content)


@pytest.fixture
def good(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "model.safetensors").write_bytes(safetensors(SHAPES))
    return tmp_path


def start(path: Path, **settings: Any) -> None:
    engine = build_engine(Settings(model=str(path), **settings), progress=False, backend=NullBackend())
    engine.close()


def refused(path: Path, **settings: Any) -> str:
    """What a start says, which takes little time and memory."""
    before, begin = psutil.Process().memory_info().rss, time.monotonic()
    with pytest.raises(ZifError) as caught:
        start(path, **settings)
    assert time.monotonic() - begin < 10  # 0.1 s; gigabytes of weights or tables take minutes
    assert psutil.Process().memory_info().rss - before < 100 * 2**20
    assert isinstance(caught.value, WeightsError | UnsupportedModel | InvalidSettings | OutOfMemory)
    said = str(caught.value)
    assert "\n" not in said
    assert len(said) < 800
    return said


def configured(path: Path, **changes: Any) -> None:
    (path / "config.json").write_text(json.dumps({**CONFIG, **changes}))


def test_the_good_one_starts(good: Path) -> None:
    start(good)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (with_header("3"), "its header is no JSON object"),
        (with_header("[" * 100_000), "is not a safetensors file"),
        (with_header('{"a": 3}'), "tensor a is described as 3"),
        (with_header('{"a": [], "a": []}'), "names a tensor twice"),
        (one({"dtype": "F32", "shape": 4, "data_offsets": [0, 16]}), "tensor a is described as"),
        (one({"dtype": "F32", "shape": [-2, -2], "data_offsets": [0, 16]}), r"has the shape \[-2, -2\]"),
        (one({"dtype": "F32", "shape": [2.0, 2], "data_offsets": [0, 16]}), r"has the shape \[2.0, 2\]"),
        (one({"dtype": "F32", "shape": [4], "data_offsets": [-8, 8]}), "tensor a has"),
        (one({"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 16]}), "tensor a has 16 bytes"),
        (one({"dtype": "F32", "shape": [4], "data_offsets": ["0", "16"]}), "tensor a is described as"),
        (one({"dtype": "F32", "shape": [400], "data_offsets": [0, 1600]}), "ends at byte"),
        (one({"dtype": "X9", "shape": [4], "data_offsets": [0, 16]}), "unknown dtype X9"),
        (
            with_header(
                json.dumps(
                    {
                        "a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]},
                        "b": {"dtype": "F32", "shape": [4], "data_offsets": [8, 24]},
                    }
                ),
                bytes(24),
            ),
            "tensors a and b overlap",
        ),
        ((2**62).to_bytes(8, "little") + bytes(32), "a header of"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git-lfs pointer.*git lfs pull"),
    ],
)
def test_hostile_tensor_files(good: Path, content: bytes, said: str) -> None:
    (good / "model.safetensors").write_bytes(content)
    assert re.search(said, refused(good))


@pytest.mark.parametrize(
    ("weight_map", "said"),
    [
        ({"model.norm.weight": "../elsewhere.safetensors"}, "not a file of this directory"),
        ({"model.norm.weight": "/etc/passwd"}, "not a file of this directory"),
        ({"model.norm.weight": ""}, "not a file of this directory"),
        ({"model.norm.weight": 7}, "no weight_map of tensors to files"),
        ([], "no weight_map of tensors to files"),
        ({"model.norm.weight": "gone.safetensors"}, "not there: gone.safetensors; download them again"),
        ({"model.norms.weight": "model.safetensors"}, "which does not hold it"),
    ],
)
def test_hostile_indices(good: Path, weight_map: Any, said: str) -> None:
    (good / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert said in refused(good)


def test_a_tensor_in_two_files_is_not_guessed(good: Path) -> None:
    whole = (good / "model.safetensors").read_bytes()
    (good / "model.safetensors").rename(good / "a.safetensors")
    (good / "b.safetensors").write_bytes(whole)
    assert "both hold model." in refused(good)


def test_a_pipe_is_not_waited_for(good: Path) -> None:
    (good / "model.safetensors").unlink()
    os.mkfifo(good / "model.safetensors")
    assert "has no *.safetensors file" in refused(good)
    (good / "config.json").unlink()
    os.mkfifo(good / "config.json")
    assert "has no config.json" in refused(good)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{" * 100_000, "cannot be read as JSON"),
        ('{"a":' * 100_000, "nested too deeply"),
        ("", "cannot be read as JSON"),
        ("[]", "holds no JSON object"),
        ("\udcff", "cannot be read"),
        ("version https://git-lfs.github.com/spec/v1\n", "git-lfs pointer"),
    ],
)
def test_hostile_config_files(good: Path, content: str, said: str) -> None:
    (good / "config.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    assert said in refused(good)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_hidden_layers": 10**9},
        {"head_dim": 2**40},
        {"rope_theta": 0},
        {"rope_scaling": {"rope_type": "linear", "factor": "two"}},
        {"vocab_size": 2**40},
        {"hidden_size": "many"},
        {"max_position_embeddings": 2**40},
        {"architectures": {"a": 1}},
    ],
)
@pytest.mark.parametrize("load_format", ["auto", "dummy"])
def test_hostile_configs(good: Path, changes: dict[str, Any], load_format: str) -> None:
    configured(good, **changes)
    assert "config.json" in refused(good, load_format=load_format)


def test_weights_that_no_memory_holds_are_not_made(good: Path) -> None:
    configured(good, vocab_size=2**24, hidden_size=2**20, num_attention_heads=2**8, num_key_value_heads=2**8)
    assert "the weights take" in refused(good, load_format="dummy")


def test_a_context_of_a_hundred_million_tokens_costs_no_tables(good: Path) -> None:
    configured(good, max_position_embeddings=100_000_000)
    before = NullBackend()
    engine = build_engine(Settings(model=str(good), max_total_tokens=4096), progress=False, backend=before)
    assert before.device.used < 64 * 2**20
    engine.close()


QUANTIZED: dict[str, Callable[[Path], object]] = {
    "quantization_config": lambda path: configured(path, quantization_config={"quant_method": "awq"}),
    "compression_config": lambda path: configured(path, compression_config={"quant_method": "compressed-tensors"}),
    "quantization": lambda path: configured(path, quantization={"group_size": 64, "bits": 4}),
    "of the text": lambda path: configured(path, text_config={"quantization_config": {"quant_method": "gptq"}}),
    "no object": lambda path: configured(path, quantization_config="fp8"),
    "hf_quant_config.json": lambda path: (path / "hf_quant_config.json").write_text('{"quantization": {}}'),
    "quantize_config.json": lambda path: (path / "quantize_config.json").write_text('{"bits": 4}'),
}


@pytest.mark.parametrize("how", QUANTIZED)
def test_quantized_checkpoints_are_refused_wherever_they_say_it(good: Path, how: str) -> None:
    QUANTIZED[how](good)
    assert "the checkpoint is quantized" in refused(good)


def test_eight_bit_weights_that_nothing_describes_are_refused(good: Path) -> None:
    (good / "model.safetensors").write_bytes(safetensors(SHAPES, "F8_E4M3"))
    assert "is float8_e4m3fn: quantized checkpoints cannot be loaded yet" in refused(good)


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.0.self_attn.q_proj.bias",
        "model.layers.0.self_attn.q_proj.weight_scale",
        "model.layers.0.self_attn.sinks",
        "model.layers.0.mlp.gate_proj.lora_A.weight",
        "model.layers.3.mlp.up_proj.weight",
        "model.norm.bias",
        "lm_head.bias",
    ],
)
def test_a_tensor_that_would_change_the_numbers_is_not_left_out(good: Path, name: str) -> None:
    (good / "model.safetensors").write_bytes(safetensors({**SHAPES, name: (16,)}))
    assert f"that would change what its layers compute: {name}" in refused(good)


def test_tensors_of_other_parts_are_named(good: Path, caplog: pytest.LogCaptureFixture) -> None:
    others = {
        "vision_tower.layers.0.weight": (4,),
        "model.layers.1.mlp.up_proj.weight": (4,),
        "model.layers.0.self_attn.k_proj.k_scale": (1,),
        "model.layers.0.self_attn.rotary_emb.inv_freq": (4,),
    }
    configured(good, num_nextn_predict_layers=1)
    (good / "model.safetensors").write_bytes(safetensors({**SHAPES, **others}))
    start(good)
    (said,) = [record.message for record in caplog.records if "not used" in record.message]
    assert said.startswith("3 tensors")
    assert "inv_freq" not in said


PLACES: dict[str, tuple[dict[str, str], str]] = {
    "adapter": ({"adapter_config.json": "{}", "adapter_model.safetensors": ""}, r"an adapter \(LoRA\)"),
    "mistral": ({"params.json": "{}", "consolidated.safetensors": ""}, "Mistral's or Meta's own code"),
    "gguf": ({"model-q4.gguf": ""}, "GGUF files, llama.cpp's format"),
    "diffusers": ({"model_index.json": "{}"}, "a pipeline of diffusers"),
    "parent": ({"tiny/config.json": "{}", "large/config.json": "{}"}, "directories in it: large, tiny"),
    "hub model": ({"snapshots/abc/config.json": "{}", "blobs/x": ""}, "the checkpoint is .*snapshots/abc$"),
    "hub cache": ({"models--acme--tiny/snapshots/abc/config.json": "{}"}, "name a model by its id"),
    "nothing": ({"README.md": ""}, "no checkpoint of a model"),
}


@pytest.mark.parametrize("kind", PLACES)
def test_places_that_are_no_checkpoint_say_what_they_are(tmp_path: Path, kind: str) -> None:
    files, said = PLACES[kind]
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    assert re.search(said, refused(tmp_path))


def test_a_template_that_links_elsewhere_is_not_read(good: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    secret = tmp_path_factory.mktemp("elsewhere") / "secret"
    secret.write_text("{{ messages }} and a secret")
    good.joinpath("tokenizer.json").write_text(json.dumps(_TOKENIZER))
    (good / "chat_template.jinja").symlink_to(secret)
    with pytest.raises(WeightsError, match="outside of the checkpoint"):
        load_tokenizer(good)
    (good / "chat_template.jinja").unlink()
    (good / "other").write_text("{{ messages }}")
    (good / "chat_template.jinja").symlink_to("other")
    assert load_tokenizer(good).chat_template is not None


_TOKENIZER = {
    "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
    "pre_tokenizer": None, "post_processor": None, "decoder": None,
    "model": {"type": "WordLevel", "vocab": {"a": 0, "b": 1}, "unk_token": "a"},
}  # fmt: skip
