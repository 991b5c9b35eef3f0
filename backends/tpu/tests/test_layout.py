"""No step copies the cache, whatever the heads. Needs libtpu, which one process at a time can have."""

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
TOKENS = 65_536
MOST_SCRATCH = 16.0  # MiB
HEADS = {64: 8, 80: 4, 96: 2, 112: 1, 128: 3, 192: 2, 256: 1}
"""Head sizes, each with a number of kv heads for the short test."""

SCRIPT = """
import json, sys
from pathlib import Path
from zif.process.ahead import Ahead
from zif.settings import Settings
tokens = int(sys.argv[1])
for config, target, ranks in json.load(sys.stdin):
    Path("config.json").write_text(json.dumps(config))
    settings = Settings(model=".", device="tpu", tp_size=ranks, max_running_requests=64, max_total_tokens=tokens)
    ahead = Ahead(settings, target)
    (told,) = ahead.steps(only=["decode-8x8x8*"])
    print(json.dumps({"cache": ahead.facts["cache_bytes"], "scratch": told["scratch_mib"], "why": told.get("refusal")}))
"""


def config(head_dim: int, kv_heads: int) -> dict[str, Any]:
    return {
        "architectures": ["Qwen3ForCausalLM"], "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2,
        "num_attention_heads": 2 * kv_heads, "num_key_value_heads": kv_heads, "head_dim": head_dim, "vocab_size": 1024,
        "max_position_embeddings": 4096, "rms_norm_eps": 1e-6, "rope_theta": 1e4, "dtype": "bfloat16",
    }  # fmt: skip


def told(cases: list[tuple[dict[str, Any], str, int]], where: Path) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(TOKENS)], input=json.dumps(cases), cwd=where, capture_output=True, text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@needs_libtpu
def test_no_head_size_has_the_cache_copied(tmp_path: Path) -> None:
    cases = [(config(head_dim, kv_heads), "v5e:2x2", 1) for head_dim, kv_heads in HEADS.items()]
    for case, step in zip(cases, told(cases, tmp_path), strict=True):
        assert step["why"] is None
        assert step["cache"] > 2 * MOST_SCRATCH * 2**20, case  # a copy would show
        assert step["scratch"] < MOST_SCRATCH, case


@pytest.mark.slow
@pytest.mark.timeout(1800)
@needs_libtpu
@pytest.mark.parametrize("target", ["v5e:2x4", "v6e:2x4", "tpu7x:2x2x1"])
def test_nor_has_any_share_of_them(target: str, tmp_path: Path) -> None:
    """Every head size, of 1 to 8 ranks: 8 to 1 kv heads are left to each. And numbers of heads that models have."""
    cases = [(config(head_dim, 8), target, ranks) for head_dim in HEADS for ranks in (1, 2, 4, 8)]
    cases += [(config(head_dim, kv_heads), target, 1) for head_dim in (64, 96, 128) for kv_heads in (3, 5, 10, 32)]
    for case, step in zip(cases, told(cases, tmp_path), strict=True):
        assert step["why"] is None, case
        assert step["scratch"] < MOST_SCRATCH, case
