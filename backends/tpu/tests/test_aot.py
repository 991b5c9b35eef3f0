"""Compiling for TPUs that are not here. Needs libtpu, which one process at a time can have."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

needs_libtpu = pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")

CONFIG = {
    "architectures": ["Qwen3ForCausalLM"], "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 128, "vocab_size": 1024,
    "max_position_embeddings": 4096, "rms_norm_eps": 1e-6, "rope_theta": 1e4, "dtype": "bfloat16",
}  # fmt: skip


def aot(model: Path, *flags: str, code: int = 0) -> Any:
    command = [sys.executable, "-m", "zif.cli.main", "aot", "--device", "tpu", str(model), "--json", *flags]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "JAX_PLATFORMS": "cpu"})
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout) if code == 0 else done.stderr


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return tmp_path


@pytest.mark.slow
@needs_libtpu
@pytest.mark.parametrize("target", ["v5e:2x2", "v6e:2x4", "v5p:2x2x1", "tpu7x:2x2x1"])
def test_a_serving_step_compiles(target: str, model: Path) -> None:
    flags = ["--target", target, "--tp-size", "1", "--max-running-requests", "64", "--only", "decode-8x8x8*"]
    told = aot(
        model, *flags, "--only", "decode-8x8x8*", "--only", "mixed-512x64x8x64", "--output", str(model / "compiled")
    )
    decode, mixed = told["programs"]
    layer = 2 * 256 * (3 * 512 + 2 * 4 * 128 + 2 * 2 * 128)
    assert decode["gflop"] * 1e9 >= 8 * (4 * layer + 2 * 256 * 1024)  # loops count as often as they turn
    assert mixed["gflop"] > 50 * decode["gflop"]
    assert decode["fits"] and mixed["fits"]
    assert decode["scratch_mib"] < 2  # the layers' 6 MiB of weights are not copied to another layout
    assert told["weight_bytes"] + told["cache_bytes"] < told["memory_bytes"]
    assert len(list((model / "compiled").iterdir())) == 2


@pytest.mark.slow
@needs_libtpu
def test_what_does_not_fit_says_so(model: Path) -> None:
    large = CONFIG | {"hidden_size": 16384, "intermediate_size": 65536, "vocab_size": 262144}
    (model / "config.json").write_text(json.dumps(large))
    assert "no memory is left for the KV cache" in aot(model, "--target", "v5e:2x2", "--tp-size", "1", code=1)


@pytest.mark.slow
@needs_libtpu
@pytest.mark.parametrize(("target", "ranks"), [("v6e:2x4", 8), ("tpu7x:2x2x1", 4)])
def test_a_step_over_a_whole_topology_compiles(target: str, ranks: int, model: Path) -> None:
    """Of eight devices each has one key-value head, with keys and values in one array; nothing is copied."""
    (model / "config.json").write_text(json.dumps(CONFIG | {"num_attention_heads": 16, "num_key_value_heads": 8}))
    flags = ["--only", "decode-8x8x8*", "--max-running-requests", "64", *([] if ranks == 8 else ["--tp-size", "4"])]
    told = aot(model, "--target", target, *flags)
    (decode,) = told["programs"]
    assert f"{ranks} of 8 devices" in told["target"]
    assert decode["fits"]
    assert decode["scratch_mib"] < 1
    # a sum of the embedding, two a layer, and the logits' gathering; what a ring sends of each
    sums, gathered = (1 + 2 * 4) * 8 * 256 * 2, 8 * 1024 * 4
    assert decode["sent_mb"] * 1e6 == pytest.approx((2 * sums + gathered) * (ranks - 1) / ranks)


@pytest.mark.slow
@needs_libtpu
def test_a_topology_has_so_many_devices(model: Path) -> None:
    assert "--tp-size 16: v6e:2x2 has 4 devices" in aot(model, "--target", "v6e:2x2", "--tp-size", "16", code=2)


@pytest.mark.slow
@needs_libtpu
def test_a_bucket_that_does_not_fit_is_told_and_the_others_reported(model: Path) -> None:
    wide = CONFIG | {"vocab_size": 262_144}
    (model / "config.json").write_text(json.dumps(wide))
    flags = ("--target", "v5e:2x2", "--tp-size", "1", "--chunked-prefill-size", "16384", "--context-length", "4096")
    command = [sys.executable, "-m", "zif.cli.main", "aot", "--device", "tpu", str(model), "--json", *flags]
    command += ["--max-running-requests", "8", "--only", "decode-8x8x64*", "--only", "mixed-16392x8x64x16392"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "JAX_PLATFORMS": "cpu"})
    assert done.returncode == 1
    small, large = json.loads(done.stdout)["programs"]
    assert small["fits"]
    assert not large["fits"]
    assert "does not fit in the device's memory" in large["refusal"]
    assert "Lower --chunked-prefill-size, --max-running-requests or --mem-fraction-static" in large["refusal"]


def test_costs_count_loops_as_often_as_they_turn() -> None:
    import jax
    import jax.numpy as jnp

    from zif_tpu.cost import cost_of

    def layers(w: Any, x: Any) -> Any:
        def turn(carry: Any, i: Any) -> Any:
            return jnp.tanh(carry @ jax.lax.dynamic_index_in_dim(w, i, keepdims=False)), None

        return jax.lax.scan(turn, x, jnp.arange(w.shape[0]))[0]

    for count in (1, 5):
        traced = jax.jit(layers).trace(jnp.zeros((count, 64, 64), jnp.bfloat16), jnp.zeros((8, 64), jnp.bfloat16))
        cost = cost_of(traced.jaxpr)
        assert cost.flops == count * 2 * 8 * 64 * 64
        assert cost.bytes == count * 2 * (64 * 64 + 2 * 8 * 64)


def test_a_kernel_counts_as_it_declares() -> None:
    import jax
    import jax.numpy as jnp

    from zif_tpu.cost import cost_of
    from zif_tpu.pallas.ragged_attention import ragged_attention

    def attend(q: Any, k: Any, v: Any) -> Any:
        whole = (jnp.zeros((4, 8), jnp.int32), jnp.arange(5), jnp.ones(4, jnp.int32), jnp.full(1, 4))
        return ragged_attention(q, (k, v), 0, *whole, kv_heads=2, scale=1.0, decode=True, interpret=True)

    q, pool = jnp.zeros((4, 8, 128), jnp.bfloat16), jnp.zeros((1, 9, 16, 2, 128), jnp.bfloat16)
    cost = cost_of(jax.jit(attend).trace(q, pool, pool).jaxpr)
    keys = 4 * 8 * 16  # of four sequences, with page tables of eight pages
    assert cost.flops == 4 * 8 * keys * 128
    assert cost.bytes >= 2 * keys * 2 * 128 * 2
