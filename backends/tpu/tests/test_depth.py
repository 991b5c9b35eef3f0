"""Depth costs a program nothing: a model of 80 layers is compiled as one of 16 is."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from zif.contract.info import Device
from zif.engine.programs import Forward
from zif.process.build import build_engine
from zif.settings import Settings
from zif_tpu.backend import create

CONFIG = {
    "architectures": ["Qwen3ForCausalLM"], "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 199, "max_position_embeddings": 256, "rms_norm_eps": 1e-6,
    "rope_theta": 1e4, "dtype": "float32",
}  # fmt: skip


def compiled(layers: int, directory: Path) -> tuple[float, int]:
    """Seconds to compile a decode step, and lines of the program that was compiled."""
    (directory / "config.json").write_text(json.dumps(CONFIG | {"num_hidden_layers": layers}))
    backend: Any = create({"platform": "cpu", "compilation_cache": "off"}, Device(name="cpu"))
    settings = Settings(model=str(directory), max_total_tokens=256, max_running_requests=8)
    runner = build_engine(settings, progress=False, backend=backend, load_format="dummy").runner
    begin = time.monotonic()
    shapes = runner.staging.shapes
    first = shapes.every()[0]
    executable: Any = runner.executable(Forward(first, shapes.assigned(first)))
    return time.monotonic() - begin, len(executable.compiled.as_text().splitlines())


def test_a_program_does_not_grow_with_depth(tmp_path: Path) -> None:
    """Its size says it surely; seconds are measured by ``benchmarks/tpu_aot.py``, on a machine with less to do."""
    shallow, deep = compiled(16, tmp_path), compiled(80, tmp_path)
    print(f"16 layers {shallow[0]:.2f} s, 80 layers {deep[0]:.2f} s")
    assert deep[1] == shallow[1]
