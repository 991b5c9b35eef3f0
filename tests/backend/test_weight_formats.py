"""Quantized checkpoints: read to the values that they stand for, on every backend, or refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from transformers.integrations.finegrained_fp8 import _dequantize_fp8_weight

from backend.checkpoints import VOCAB, save
from backend.driver import model_of
from backend.test_engine import run
from zif.contract.arrays import tree_leaves
from zif.contract.errors import UnsupportedModel, WeightsError
from zif.contract.kernels import KernelSet, kernel
from zif.contract.weights import ALONE, Encoded, LinearSpec, PackedWeight, Shard
from zif.process.build import build_engine
from zif.reference.jax import JaxBackend, JaxPacker, JaxRuntime
from zif.reference.torch import TorchBackend, TorchPacker, TorchReference, TorchRuntime
from zif.sampling.params import SamplingParams
from zif.settings import Settings
from zif.weights import Checkpoint, load_weights
from zif.weights.formats.fp8 import FORMAT, Fp8
from zif.weights.safetensors import SafetensorsFile

FP8 = ml_dtypes.float8_e4m3fn
BLOCK = (32, 48)  # neither divides all of the checkpoint's sizes
DEEPSEEK = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [*BLOCK]}
PROMPTS = [np.random.default_rng(1).integers(1, VOCAB, length).tolist() for length in (3, 9)]
GREEDY = SamplingParams(temperature=0, max_tokens=6, logprobs=2)
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}

Tensors = dict[str, Any]


def compressed(**weights: Any) -> dict[str, Any]:
    """As llm-compressor writes it."""
    said = {"num_bits": 8, "type": "float", "symmetric": True, "dynamic": False, **weights}
    group = {"targets": ["Linear"], "weights": said, "input_activations": {"num_bits": 8, "dynamic": True}}
    return {
        "quant_method": "compressed-tensors", "format": "float-quantized", "ignore": ["lm_head"],
        "config_groups": {"group_0": group},
    }  # fmt: skip


def quantize(weight: Any, tile: tuple[int, int]) -> tuple[Any, Any, Any]:
    """(codes, scales, the values that they stand for) of a weight [rows, columns], a scale a tile."""
    rows, columns = weight.shape
    tiles = -(-rows // tile[0]), -(-columns // tile[1])
    scale = np.empty(tiles, np.float32)
    codes, values = np.empty(weight.shape, FP8), np.empty(weight.shape, np.float32)
    for at in np.ndindex(*tiles):
        part = tuple(slice(i * size, (i + 1) * size) for i, size in zip(at, tile, strict=True))
        scale[at] = np.abs(weight[part]).max() / np.float32(448)
        codes[part] = (weight[part] / scale[at]).astype(FP8)
        values[part] = codes[part].astype(np.float32) * scale[at]
    return codes, scale, values


STYLES: dict[str, tuple[dict[str, Any], str, Callable[[Any], tuple[int, int]], Callable[[Any], Any]]] = {
    "fp8, blocks": (DEEPSEEK, "_scale_inv", lambda shape: BLOCK, lambda scale: scale),
    "fp8, a scale a tensor": (
        {"quant_method": "fp8", "activation_scheme": "static"}, "_scale", lambda shape: shape, lambda s: s.reshape(()),
    ),
    "compressed-tensors, a scale a tensor": (
        compressed(strategy="tensor"), "_scale", lambda shape: shape, lambda s: s.reshape(1),
    ),
    "compressed-tensors, a scale a row": (
        compressed(strategy="channel"), "_scale", lambda shape: (1, shape[1]), lambda s: s.astype(ml_dtypes.bfloat16),
    ),
    "compressed-tensors, blocks": (
        compressed(strategy="block", block_structure=[*BLOCK]), "_scale", lambda shape: BLOCK, lambda s: s,
    ),
}  # fmt: skip


def checkpoints(path: Path, style: str) -> tuple[Path, Path]:
    """A quantized checkpoint, and one of the values that it stands for."""
    config, suffix, tile, form = STYLES[style]
    saved = save("qwen3", path / "values")
    quantized, plain = {}, {}
    for name, value in load_file(saved.path / "model.safetensors").items():
        if "_proj" not in name:
            quantized[name] = plain[name] = value
            continue
        codes, scale, values = quantize(value, tile(value.shape))
        stored = form(scale)
        if stored.dtype != np.float32:  # then the rounded scale is the one that counts
            values = codes.astype(np.float32) * stored.astype(np.float32)
        quantized |= {name: codes, f"{name}{suffix}": stored}
        plain[name] = values
    (path / "fp8").mkdir()
    save_file(quantized, path / "fp8" / "model.safetensors")
    (path / "fp8" / "config.json").write_text(json.dumps({**saved.config, "quantization_config": config}))
    save_file(plain, saved.path / "model.safetensors")
    return path / "fp8", saved.path


def read(path: Path) -> Tensors:
    """Eight-bit floats too, which safetensors' own reader does not give to numpy."""
    file = SafetensorsFile(path / "model.safetensors")
    return {name: file.view(name).copy() for name in file.tensors}


def change(path: Path, edit: Callable[[Tensors], None]) -> None:
    tensors = read(path)
    edit(tensors)
    save_file(tensors, path / "model.safetensors")


def answers(path: Path, backend: Any) -> list[Any]:
    settings = Settings(model=str(path), max_total_tokens=128, page_size=4, dtype="float32", max_running_requests=4)
    return run(build_engine(settings, progress=False, backend=backend), PROMPTS, [GREEDY] * len(PROMPTS))


def load(path: Path, dtype: str = "float32", shard: Shard = ALONE, packer: Any = None) -> dict[str, Any]:
    checkpoint = Checkpoint(path)
    packer = packer or TorchPacker(TorchRuntime())
    return load_weights(model_of(checkpoint.config), checkpoint, packer, dtype, progress=False, shard=shard)


def test_tokens_and_scores_are_those_of_the_values(tmp_path: Path) -> None:
    quantized, plain = checkpoints(tmp_path, "fp8, blocks")
    mine, theirs = (answers(path, TorchBackend(TorchRuntime())) for path in (quantized, plain))
    assert [answer.tokens for answer in mine] == [answer.tokens for answer in theirs]
    assert [answer.logprobs for answer in mine] == [answer.logprobs for answer in theirs]
    assert len({tuple(answer.tokens) for answer in mine}) == len(PROMPTS)


def test_jax_is_given_the_same_values(tmp_path: Path) -> None:
    """The weights bit for bit, and so the tokens."""
    quantized, plain = checkpoints(tmp_path, "fp8, blocks")
    packer = JaxPacker(JaxRuntime())
    pairs = zip(tree_leaves(load(quantized, packer=packer)), tree_leaves(load(plain, packer=packer)), strict=True)
    assert all(np.array_equal(np.asarray(one), np.asarray(other)) for one, other in pairs)
    backends: list[Any] = [TorchBackend(TorchRuntime()), JaxBackend(JaxRuntime(), QUICK)]
    on_torch, on_jax = (answers(quantized, backend) for backend in backends)
    assert [answer.tokens for answer in on_jax] == [answer.tokens for answer in on_torch]


@pytest.mark.parametrize("shard", [ALONE, Shard(1, 2)], ids=["whole", "a rank's share"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("style", STYLES)
def test_weights_are_the_values_rounded_once(style: str, dtype: str, shard: Shard, tmp_path: Path) -> None:
    quantized, plain = checkpoints(tmp_path, style)
    found, wanted = load(quantized, dtype, shard), load(plain, dtype, shard)
    pairs = list(zip(tree_leaves(found), tree_leaves(wanted), strict=True))
    assert len(pairs) > 20
    assert all(torch.equal(one, other) for one, other in pairs)


def test_blocks_are_decoded_as_transformers_does() -> None:
    rng = np.random.default_rng(2)
    codes = np.arange(256, dtype=np.uint8).repeat(600)[rng.permutation(256 * 600)].reshape(512, 300).view(FP8)
    codes[np.isnan(codes.astype(np.float32))] = 0
    scale = rng.random((16, 7), dtype=np.float32)
    mine = Fp8(DEEPSEEK).decode(Encoded(FORMAT, codes.shape, {"weight": codes, "scale": scale}, BLOCK), "float32")
    theirs = _dequantize_fp8_weight(
        torch.from_numpy(codes.view(np.uint8)).view(torch.float8_e4m3fn),
        torch.from_numpy(scale),
        [*BLOCK],
        torch.float32,
    )
    np.testing.assert_array_equal(mine, theirs.numpy())


class KeepsFp8(TorchPacker):
    """A packer whose backend has kernels for the format: it takes codes and scales as they are stored."""

    def encoded(self, spec: LinearSpec, weights: Any, biases: Any, dtype: str) -> PackedWeight | None:
        if any(weight.format != FORMAT for weight in weights):
            return None
        arrays: dict[str, Any] = {}
        for i, weight in enumerate(weights):
            arrays |= {f"{name}{i}": self.runtime.put(array) for name, array in weight.arrays.items()}
        return PackedWeight(arrays, FORMAT, (spec.rows, spec.in_features), facts=weights[0].facts)


class Fp8Kernels(KernelSet):
    provider = "fp8_extension"
    level = 1

    @kernel("linear", when=lambda _, request: None if request["format"] == FORMAT else "reads fp8 alone")
    def linear(self, x: torch.Tensor, w: PackedWeight, step: Any = None) -> torch.Tensor:
        parts = []
        for i in range(len(w.arrays) // 2):
            codes, scale = w.arrays[f"weight{i}"].float(), w.arrays[f"scale{i}"]
            factors = scale.repeat_interleave(w.facts[0], 0).repeat_interleave(w.facts[1], 1)
            parts.append(codes * factors[: codes.shape[0], : codes.shape[1]])
        return torch.nn.functional.linear(x, torch.cat(parts))


def test_a_packer_may_take_weights_undecoded(tmp_path: Path) -> None:
    """The format is the checkpoint's, the kernel a backend's: no file of core knows that they meet."""
    quantized, plain = checkpoints(tmp_path, "fp8, blocks")
    backend = TorchBackend(TorchRuntime())
    backend.packer = KeepsFp8(backend.runtime)
    backend.kernels = lambda: (Fp8Kernels(), TorchReference())  # type: ignore[method-assign]
    mine, theirs = answers(quantized, backend), answers(plain, TorchBackend(TorchRuntime()))
    assert [answer.tokens for answer in mine] == [answer.tokens for answer in theirs]
    checkpoint = Checkpoint(quantized)
    packed = load_weights(model_of(checkpoint.config), checkpoint, backend.packer, "float32", progress=False)
    layer = packed["body"][0].layers[0][0]
    assert (layer["qkv"].format, packed["lm_head"].format) == (FORMAT, "dense")
    assert layer["o"].arrays["weight0"].dtype == torch.float8_e4m3fn
    stored = read(quantized)["model.layers.0.self_attn.o_proj.weight"]
    np.testing.assert_array_equal(layer["o"].arrays["weight0"].view(torch.uint8).numpy(), stored.view(np.uint8))


# --- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (
            {**DEEPSEEK, "fmt": "e5m2"},
            r"quantized \(quantization_config in config.json, method 'fp8'\) in a way .*: fmt is 'e5m2'; zif reads",
        ),
        (
            {**DEEPSEEK, "weight_block_size": [128]},
            r"weight_block_size is \[128\], not the rows and columns of a block",
        ),
        ({**DEEPSEEK, "weight_block_size": [0, 128]}, r"weight_block_size is \[0, 128\]"),
        ({**DEEPSEEK, "activation_scheme": "guessed"}, "activation_scheme is 'guessed'; zif reads dynamic or static"),
        ({**DEEPSEEK, "store": "packed"}, "it has store, which zif does not know"),
        (compressed(strategy="group"), "strategy is 'group'; zif reads tensor or channel or block"),
        (compressed(strategy="tensor", num_bits=4), "num_bits is 4; zif reads 8"),
        (compressed(strategy="tensor", type="int"), "type is 'int'; zif reads float"),
        ({**compressed(strategy="tensor"), "format": "pack-quantized"}, "format is 'pack-quantized'"),
        ({**compressed(strategy="tensor"), "config_groups": {}}, "config_groups is not one group"),
        ({"quant_method": "awq"}, r"method 'awq'\), which zif cannot load yet; it reads compressed-tensors, fp8"),
    ],
)
def test_configs_that_say_something_else_are_refused_by_field(config: Any, said: str, tmp_path: Path) -> None:
    saved = save("qwen3", tmp_path)
    saved.edit_config(lambda values: values.update(quantization_config=config))
    with pytest.raises(UnsupportedModel, match=said):
        Checkpoint(tmp_path).config  # noqa: B018


DOWN = "model.layers.1.mlp.down_proj.weight"
SCALE = f"{DOWN}_scale_inv"


def setting(name: str, value: Callable[[Tensors], Any]) -> Callable[[Tensors], None]:
    return lambda tensors: tensors.update({name: value(tensors)})


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda t: t.pop(SCALE), f"missing: {SCALE}"),
        (setting(SCALE, lambda t: np.ones((2, 3), np.float32)), rf"{SCALE} is \[2, 3\], not \[2, 2\]"),
        (setting(SCALE, lambda t: np.full((2, 2), np.nan, np.float32)), "no finite numbers"),
        (setting(SCALE, lambda t: t[SCALE].astype(np.float64)), f"{SCALE} is float64, not float32 or bfloat16"),
        (setting(DOWN, lambda t: t[DOWN].astype(np.float32)), f"would change what its layers compute: {SCALE}"),
        (setting(DOWN, lambda t: t[DOWN].view(np.int8)), f"{DOWN} is int8: quantized checkpoints cannot"),
    ],
)  # fmt: skip
def test_tensors_that_do_not_fit_their_format_are_named(edit: Any, said: str, tmp_path: Path) -> None:
    quantized, _ = checkpoints(tmp_path, "fp8, blocks")
    change(quantized, edit)
    with pytest.raises(WeightsError, match=said):
        load(quantized)


def test_scales_of_activations_are_named_as_unused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    quantized, _ = checkpoints(tmp_path, "fp8, a scale a tensor")
    change(quantized, lambda tensors: tensors.update({DOWN.replace(".weight", ".input_scale"): np.ones(1, np.float32)}))
    load(quantized)
    assert "1 tensors of the checkpoint are not used: model.layers.1.mlp.down_proj.input_scale" in caplog.text
