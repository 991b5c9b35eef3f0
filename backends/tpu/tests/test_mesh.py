"""Tensor parallelism over a mesh of host devices: on any number of them, every family says what it says on one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from backend import test_tensor_parallel as shared
from backend.checkpoints import CHECKPOINTS, SERVED, save
from zif.contract.comm import Group
from zif.contract.errors import NoUsableDevice, UnsupportedModel
from zif.contract.info import Device
from zif.engine.engine import Engine
from zif.process.build import build_engine
from zif_tpu.backend import create

FACTS = {"num_attention_heads": 8, "num_key_value_heads": 4, "hidden_size": 128}
"""So that two and four devices divide all heads, and of eight two each keep the same key-value head."""
FAST = "llama"
CPU = Device(name="cpu", shared=True)


def engine_of(saved: Any, size: int, **values: Any) -> Engine:
    group = Group(0, (CPU,) * size) if size > 1 else None
    backend: Any = create({"platform": "cpu"}, CPU, group)
    return build_engine(shared.settings_of(saved, size, **values), progress=False, backend=backend)


@pytest.mark.parametrize("name", [FAST, *(pytest.param(n, marks=pytest.mark.slow) for n in CHECKPOINTS if n != FAST)])
@pytest.mark.timeout(900)  # four engines, each of whose programs is compiled: minutes on busy cores
def test_a_mesh_gives_the_tokens_of_one_device(name: str, tmp_path: Path) -> None:
    """Greedy and drawn tokens, the second time from the prefix cache, with a vocabulary that does not divide."""
    saved = save(name, tmp_path, **FACTS)
    context = {"context_length": SERVED.get(name)}
    alone = shared.run(engine_of(saved, 1, **context))
    for size in (2, 4, 8):
        engine = engine_of(saved, size, **context)
        assert shared.run(engine) == alone, f"on {size} devices"
        keys = engine.runner.cache.arrays[engine.runner.model.cache_groups[0].name]["k"]
        assert len(keys.sharding.device_set) == size
        assert {shard.data.shape[3] for shard in keys.addressable_shards} == {max(1, 4 // size)}  # kv heads of each


def test_a_mesh_that_does_not_divide_the_heads(tmp_path: Path) -> None:
    saved = save("llama", tmp_path, num_attention_heads=6, num_key_value_heads=2, hidden_size=96)
    with pytest.raises(UnsupportedModel, match="--tp-size 4: the model's 6 attention heads are not divided by it, but"):
        engine_of(saved, 4)


def test_more_ranks_than_devices() -> None:
    with pytest.raises(NoUsableDevice, match=r"--tp-size 9: JAX was started with 8 host devices; set XLA_FLAGS=--xla_"):
        create({"platform": "cpu"}, CPU, Group(0, (CPU,) * 9))


@pytest.mark.slow
def test_host_devices_need_no_flag() -> None:
    """As a user has it, with the bundled model: nothing in the environment says how many devices the host is to be."""
    code = (
        "import sys; from zif import LLM, SamplingParams\n"
        "with LLM(device='tpu', device_opt=('tpu.platform=cpu',), tp_size=int(sys.argv[1]), dtype='float32',\n"
        "         context_length=64, chunked_prefill_size=32, max_running_requests=4, progress=False) as llm:\n"
        "    print(llm.generate('What is 3 plus 4?', SamplingParams(temperature=0, max_tokens=8)).text)\n"
    )
    env = {"PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(sys.path), "HOME": os.environ["HOME"]}
    told = []
    for size in ("1", "2"):
        done = subprocess.run([sys.executable, "-c", code, size], capture_output=True, text=True, env=env)
        assert done.returncode == 0, done.stderr
        told.append(done.stdout)
    assert told[0] == told[1] != ""
