"""The tpu backend on JAX's CPU platform; what JAX compiles is kept for the whole run."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")  # for meshes; the others use the first


@pytest.fixture(scope="session", autouse=True)
def _compilations_are_kept(tmp_path_factory: pytest.TempPathFactory) -> None:
    import jax

    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("xla")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


@pytest.fixture
def on_jax(monkeypatch: pytest.MonkeyPatch) -> Callable[[object], None]:
    """Has the engines that a shared test module makes run on this backend instead of torch."""
    from zif.contract.info import Device
    from zif_tpu.backend import create

    def replace(module: object) -> None:
        options = {"platform": "cpu"}
        monkeypatch.setattr(module, "TorchBackend", lambda runtime: create(options, Device(name="cpu")))

    return replace
