"""Overlap: a launch returns before the device is done, and so does one that consumes what it will leave."""

from __future__ import annotations

from typing import Any

import numpy as np

from zif.contract.arrays import ArraySpec
from zif.contract.info import Device
from zif_tpu.backend import create


def test_launches_return_before_the_device_is_done() -> None:
    """Two launches, the second on the table that the first has not written yet; then both results, in order."""
    import jax
    import jax.numpy as jnp

    size, turns = 512, 60
    backend = create({"platform": "cpu"}, Device(name="cpu"))

    def step(inputs: Any, resident: Any) -> Any:
        table = jax.lax.fori_loop(0, turns, lambda _, x: jnp.tanh(x @ x) + inputs["more"], resident["table"])
        return {"total": table.sum()[None]}, {"table": table}

    table = backend.runtime.zeros(ArraySpec((size, size), "float32"))
    specs = {"more": ArraySpec((1,), "float32")}
    outputs = {"total": ArraySpec((1,), "float32")}
    executable = backend.executables.compile("step", step, specs, outputs, {"table": table}, ("table",))
    fetches = []
    for more in (0.25, 0.5):
        inputs = {"more": np.array([more], np.float32)}
        put_out, updates = executable.run(executable.stage(inputs), {"table": table})
        table = updates["table"]
        fetches.append(backend.runtime.fetch(put_out))
    assert not any(fetch.ready() for fetch in fetches)
    wanted = np.zeros((size, size), np.float32)
    for fetch, more in zip(fetches, (0.25, 0.5), strict=True):
        for _ in range(turns):
            wanted = np.tanh(wanted @ wanted) + np.float32(more)
        np.testing.assert_allclose(fetch.wait()["total"], wanted.sum(), rtol=1e-4)
        assert fetch.ready()
