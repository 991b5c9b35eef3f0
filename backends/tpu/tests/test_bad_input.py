"""What cannot be: each a clear error, with the way out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from zif.contract.arrays import ArraySpec
from zif.contract.errors import InvalidSettings, OutOfMemory
from zif.contract.info import Device
from zif.engine.plan import plan_engine
from zif.settings import Settings
from zif_tpu.backend import create, on_tpu

HUGE = ArraySpec((1 << 22, 1 << 22), "float32")
WAY_OUT = r"does not fit in the device's memory.*Lower --chunked-prefill-size, --max-running-requests or"


def test_an_array_without_room() -> None:
    backend = create({"platform": "cpu"}, Device(name="cpu"))
    with pytest.raises(OutOfMemory, match=r"an array of 65536\.0 GiB " + WAY_OUT):
        backend.runtime.zeros(HUGE)


def test_a_bucket_without_room() -> None:
    """A host's compiler compiles it all the same, and then it cannot run; a TPU's refuses to compile it."""
    import jax.numpy as jnp

    def program(inputs: Any, resident: Any) -> Any:
        wide = jnp.sort(jnp.broadcast_to(inputs["x"], HUGE.shape) + jnp.arange(HUGE.shape[1], dtype=jnp.float32))
        return {"y": wide[::7, ::3].sum()[None]}, {}

    backend = create({"platform": "cpu"}, Device(name="cpu"))
    one = {"x": ArraySpec((1,), "float32")}

    def compile_and_run() -> None:
        executable = backend.executables.compile("decode-8x8x8", program, one, {"y": ArraySpec((1,), "float32")}, {})
        outputs, _ = executable.run(executable.stage({"x": np.zeros(1, np.float32)}), {})
        backend.runtime.fetch(outputs).wait()

    with pytest.raises(OutOfMemory, match=WAY_OUT):
        compile_and_run()


def test_a_page_size_that_kernels_cannot_take() -> None:
    backend = create({"platform": "cpu"}, Device(name="cpu"))
    backend.capabilities = on_tpu()
    settings = Settings(model="x", page_size=4)
    with pytest.raises(InvalidSettings, match="--page-size 4: tpu takes 64, 16, 32, 128, 256"):
        plan_engine(settings, 4096, "bfloat16", backend)


def test_a_compiler_that_lost_an_option(caplog: pytest.LogCaptureFixture) -> None:
    """The options are of one libtpu; another that does not know them compiles without."""
    backend = create({"platform": "cpu"}, Device(name="cpu"))
    backend.executables._compiler_options = {"xla_of_another_version": False}
    one = {"x": ArraySpec((1,), "float32")}
    executable = backend.executables.compile("double", lambda inputs, _: ({"x": 2 * inputs["x"]}, {}), one, one, {})
    outputs, _ = executable.run(executable.stage({"x": np.ones(1, np.float32)}), {})
    assert backend.runtime.fetch(outputs).wait()["x"] == 2
    assert "steps may copy the weights" in caplog.text
