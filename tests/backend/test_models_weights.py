"""Weights: from safetensors files, whole and sharded, to packed trees; and what is said when they are wrong."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from backend.checkpoints import SIZES, VOCAB, save
from backend.driver import Driver, model_of
from zif.contract.arrays import tree_leaves
from zif.contract.errors import WeightsError
from zif.reference.torch.packing import TorchPacker
from zif.reference.torch.runtime import TorchRuntime, to_numpy
from zif.weights import Checkpoint, load_weights, open_checkpoint
from zif.weights.load import stored
from zif.weights.safetensors import SafetensorsFile

TOKENS = np.random.default_rng(0).integers(1, VOCAB, 20).tolist()


def rename(path: Path, change: Any) -> None:
    """Save the checkpoint's tensors under other names; a name changed to None is left out."""
    tensors = {change(name): value for name, value in load_file(path / "model.safetensors").items()}
    tensors.pop(None, None)
    save_file(tensors, path / "model.safetensors")


def logits(path: Path) -> np.ndarray[Any, Any]:
    return Driver(Checkpoint(path)).feed({0: TOKENS})[0]


def test_sharded_checkpoint_is_the_same_model(tmp_path: Path) -> None:
    whole, sharded = save("llama", tmp_path / "whole"), save("llama", tmp_path / "sharded", max_shard_size="100KB")
    assert len(list(sharded.path.glob("*.safetensors"))) > 2
    np.testing.assert_array_equal(logits(whole.path), logits(sharded.path))


@pytest.mark.parametrize("name", ["llama", "llama-tied"])
def test_tied_embeddings_are_one_table(name: str, tmp_path: Path) -> None:
    saved = save(name, tmp_path)
    w = Driver(Checkpoint(saved.path)).weights
    shared = w["lm_head"].arrays["w"].data_ptr() == w["embed"].arrays["w"].data_ptr()
    assert shared == (name == "llama-tied")


def test_untied_copy_of_a_tied_head_is_no_surprise(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    saved = save("llama-tied", tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file({**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"]}, tmp_path / "model.safetensors")
    np.testing.assert_allclose(logits(saved.path), saved.logits(TOKENS), atol=1e-4)
    assert not caplog.records


@pytest.mark.parametrize(
    "prefix", [("model.", ""), ("", "language_model."), ("model.", "model.language_model.")], ids=lambda pair: pair[1]
)
def test_known_prefixes_are_found(prefix: tuple[str, str], tmp_path: Path) -> None:
    saved = save("llama", tmp_path)
    ours, theirs = prefix
    rename(tmp_path, lambda name: theirs + name.removeprefix(ours) if name.startswith(ours) else name)
    np.testing.assert_allclose(logits(saved.path), saved.logits(TOKENS), atol=1e-4)


def test_language_model_of_a_multimodal_checkpoint(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    saved = save("gemma3", tmp_path)
    rename(tmp_path, lambda name: f"language_model.{name}")
    tensors = load_file(tmp_path / "model.safetensors")
    save_file({**tensors, "vision_tower.patch.weight": np.zeros((2, 2))}, tmp_path / "model.safetensors")

    def nest(config: dict[str, Any]) -> None:
        text = dict(config)
        config.clear()
        config.update(architectures=["Gemma3ForConditionalGeneration"], model_type="gemma3", text_config=text)

    saved.edit_config(nest)
    with caplog.at_level(logging.WARNING):
        np.testing.assert_allclose(logits(saved.path), saved.logits(TOKENS), atol=1e-4)
    assert [record.getMessage() for record in caplog.records] == [
        "1 tensors of the checkpoint are not used: vision_tower.patch.weight"
    ]


@pytest.mark.parametrize("name", ["bfloat16", "float16", "float64"])
def test_other_dtypes_than_the_checkpoints(name: str, tmp_path: Path) -> None:
    saved = save("llama", tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    dtype = np.dtype(getattr(ml_dtypes, name, name))
    save_file({key: value.astype(dtype) for key, value in tensors.items()}, tmp_path / "model.safetensors")
    assert SafetensorsFile(tmp_path / "model.safetensors").view("model.norm.weight").dtype == dtype
    np.testing.assert_allclose(logits(tmp_path), saved.logits(TOKENS), atol=0.3 if name == "bfloat16" else 0.05)
    packed = Driver(Checkpoint(tmp_path), dtype="bfloat16").weights["norm"]
    wanted = tensors["model.norm.weight"].astype(dtype).astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(to_numpy(packed), wanted)


def test_dummy_weights_need_no_tensor(tmp_path: Path) -> None:
    config = {**SIZES, "architectures": ["Qwen3ForCausalLM"], "head_dim": 16}
    (tmp_path / "config.json").write_text(json.dumps(config))
    first, second = (
        Driver(open_checkpoint(tmp_path), load_format="dummy", dtype="bfloat16").feed({0: TOKENS})[0] for _ in range(2)
    )
    np.testing.assert_array_equal(first, second)
    assert 0.1 < first.std() < 10
    assert len(set(first.argmax(-1))) > 5


def test_loading_keeps_no_second_copy(tmp_path: Path) -> None:
    """Peak memory beyond the packed weights is far less than the checkpoint."""
    config = {
        **SIZES, "architectures": ["LlamaForCausalLM"], "hidden_size": 512, "intermediate_size": 2048,
        "num_hidden_layers": 6, "num_attention_heads": 8, "vocab_size": 4096,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    shapes = stored(model_of(config).weights())
    save_file({name: np.ones(shape, np.float32) for name, shape in shapes.items()}, tmp_path / "model.safetensors")
    size = (tmp_path / "model.safetensors").stat().st_size
    assert size > 100 << 20
    code = f"""
from zif.reference.torch.packing import TorchPacker
from zif.reference.torch.runtime import TorchRuntime
from zif.weights import load_weights, open_checkpoint
from zif_models import resolve
checkpoint = open_checkpoint({str(tmp_path)!r})
model = resolve(checkpoint.config).build(checkpoint.config)
def memory(kind):  # of this process alone: getrusage's peak would include its parent's
    return next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith(kind))
before = memory("VmRSS")
weights = load_weights(model, checkpoint, TorchPacker(TorchRuntime("cpu")), "float32", progress=False)
print(memory("VmHWM") - before)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert int(run.stdout) < 1.3 * size


def load(path: Path) -> Any:
    checkpoint = open_checkpoint(path)
    return load_weights(
        model_of(checkpoint.config), checkpoint, TorchPacker(TorchRuntime("cpu")), "float32", progress=False
    )


def test_progress_counts_the_bytes_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tqdm

    bars: list[Any] = []

    class Bar(tqdm.tqdm):  # type: ignore[type-arg]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, "disable": False, "file": open("/dev/null", "w")})  # noqa: SIM115
            bars.append(self)

    monkeypatch.setattr(tqdm, "tqdm", Bar)
    saved = save("llama-tied", tmp_path)
    weights = load(saved.path)
    read = sum(array.nbytes for array in tree_leaves({**weights, "lm_head": None}))
    assert [(bar.n, bar.total) for bar in bars] == [(read, read)]
    bars[0].fp.close()


# --- what is wrong with a checkpoint ---------------------------------------------------------


def test_missing_tensors_are_named_with_the_files_looked_at(tmp_path: Path) -> None:
    save("llama", tmp_path)
    rename(tmp_path, lambda name: None if "mlp.up_proj" in name or name == "lm_head.weight" else name)
    with pytest.raises(WeightsError) as error:
        load(tmp_path)
    said = str(error.value)
    assert said.count("mlp.up_proj.weight") == 3
    assert "lm_head.weight" in said
    assert str(tmp_path / "model.safetensors") in said


def test_many_missing_tensors_are_counted(tmp_path: Path) -> None:
    saved = save("llama", tmp_path)
    saved.edit_config(lambda config: config.update(num_hidden_layers=4))
    with pytest.raises(WeightsError, match=r"model\.layers\.3\.input_layernorm\.weight.* and 4 more; looked at"):
        load(tmp_path)


def test_wrong_shapes_are_named_before_anything_is_packed(tmp_path: Path) -> None:
    saved = save("llama", tmp_path)
    saved.edit_config(lambda config: config.update(intermediate_size=128))
    with pytest.raises(WeightsError, match=r"layers\.0\.mlp\.gate_proj\.weight is \[96, 64\], not \[128, 64\]"):
        load(tmp_path)


def test_integer_weights_are_refused(tmp_path: Path) -> None:
    save("llama", tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file({**tensors, "lm_head.weight": np.zeros((VOCAB, 64), np.int8)}, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=r"lm_head\.weight is int8: quantized checkpoints"):
        load(tmp_path)


def test_index_is_checked_against_the_files(tmp_path: Path) -> None:
    save("llama", tmp_path, max_shard_size="100KB")
    first, second, *_ = sorted(tmp_path.glob("*.safetensors"))
    index = tmp_path / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    tensor = next(name for name, shard in content["weight_map"].items() if shard == first.name)
    content["weight_map"][tensor] = second.name
    index.write_text(json.dumps(content))
    with pytest.raises(WeightsError, match=f"places {tensor} in {second.name}, which does not hold it"):
        load(tmp_path)
    second.unlink()
    with pytest.raises(WeightsError, match=f"lists files that are not there: {second.name}; download them again"):
        load(tmp_path)


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "lies"])
def test_damaged_files_are_named(damage: str, tmp_path: Path) -> None:
    save("llama", tmp_path)
    path = tmp_path / "model.safetensors"
    whole = path.read_bytes()
    header = b'{"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}'
    damaged = {
        "cut": whole[:-1000],
        "empty": b"",
        "text": b"the model is very good\n",
        "lies": len(header).to_bytes(8, "little") + header + bytes(8),
    }
    path.write_bytes(damaged[damage])
    with pytest.raises(WeightsError, match=r"model\.safetensors (cannot be read|is not a safetensors file, or is cut)"):
        load(tmp_path)


def test_places_without_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="does not exist"):
        open_checkpoint(tmp_path / "nowhere")
    (tmp_path / "weights.gguf").write_bytes(b"")
    with pytest.raises(WeightsError, match=r"is a GGUF file, llama\.cpp's format"):
        open_checkpoint(tmp_path / "weights.gguf")
    with pytest.raises(WeightsError, match=r"has no config\.json"):
        open_checkpoint(tmp_path).config  # noqa: B018
    with pytest.raises(WeightsError, match=r"no \*\.safetensors file; it has weights\.gguf: .*convert"):
        open_checkpoint(tmp_path).tensors  # noqa: B018
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(WeightsError, match="holds no JSON object"):
        open_checkpoint(tmp_path).config  # noqa: B018


def test_hub_models_are_downloaded_with_what_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    saved = save("llama", tmp_path)
    asked: dict[str, Any] = {}

    def snapshot_download(repository: str, **options: Any) -> str:
        asked.update(options, repository=repository)
        return str(saved.path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert open_checkpoint("acme/tiny", "v2").config["architectures"] == ["LlamaForCausalLM"]
    assert (asked["repository"], asked["revision"]) == ("acme/tiny", "v2")
    assert {"*.json", "*.safetensors"} <= set(asked["allow_patterns"])
    assert "consolidated*" in asked["ignore_patterns"]
    open_checkpoint("acme/tiny", tensors=False)
    assert "*.safetensors" not in asked["allow_patterns"]


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        ("RepositoryNotFoundError", "'acme/tiny' is neither a directory here nor a model on the Hugging Face hub"),
        ("RevisionNotFoundError", "acme/tiny has no revision 'v2'"),
        ("GatedRepoError", "acme/tiny is gated: accept its terms"),
        ("LocalEntryNotFoundError", "acme/tiny is not a directory here, and cannot be downloaded: the network"),
    ],
)
def test_hub_failures_are_explained(failure: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import httpx
    import huggingface_hub
    from huggingface_hub import errors

    kind = getattr(errors, failure)
    response = httpx.Response(404, request=httpx.Request("GET", "https://huggingface.co/acme/tiny"))
    arguments = {} if failure == "LocalEntryNotFoundError" else {"response": response}

    def snapshot_download(*_: Any, **__: Any) -> str:
        raise kind("the network\nis down", **arguments)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(WeightsError, match=message):
        open_checkpoint("acme/tiny", "v2")
