"""Being found and chosen, on machines that have a TPU, half of what it needs, or none."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from zif.cli.main import main
from zif.contract.errors import InvalidSettings, NoUsableDevice
from zif.contract.info import Available, Unavailable
from zif.plugins import select
from zif_tpu import plugin
from zif_tpu.chips import V5E, V6E


def without(monkeypatch: pytest.MonkeyPatch, *missing: str) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: None if name in missing else find(name))


def chips(monkeypatch: pytest.MonkeyPatch, *found: Any) -> None:
    monkeypatch.setattr(plugin, "tpu_chips", lambda: found)


def test_without_a_tpu_it_says_how_to_try_it(monkeypatch: pytest.MonkeyPatch) -> None:
    chips(monkeypatch)
    with pytest.raises(NoUsableDevice, match=r"no TPU on this machine.*--device-opt tpu\.platform=cpu"):
        select("tpu")
    assert select("tpu", ["tpu.platform=cpu"]).device.name == "JAX cpu"


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    chips(monkeypatch, V6E, V6E)
    without(monkeypatch, "libtpu")
    found = plugin.zif_probe({"platform": "auto"})
    assert isinstance(found, Unavailable)
    assert (found.reason, found.fix) == ("2 TPU chips (v6e), but libtpu is not installed", 'pip install "jax[tpu]"')
    without(monkeypatch, "jax")
    found = plugin.zif_probe({"platform": "cpu"})
    assert isinstance(found, Unavailable)
    assert found.reason == "jax is not installed"


def test_cuda_is_not_taken_for_granted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "exists", lambda path: False)
    found = plugin.zif_probe({"platform": "cuda"})
    assert isinstance(found, Unavailable)
    assert "no NVIDIA GPU" in found.reason


def test_chips_are_read_from_the_bus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, vendor, device in (("0", "0x8086", "0x0063"), ("1", "0x1ae0", "0x0063"), ("2", "0x1ae0", "0xffff")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "vendor").write_text(f"{vendor}\n")
        (tmp_path / name / "device").write_text(f"{device}\n")
    found = plugin.tpu_chips(tmp_path)
    assert list(found) == [V5E]
    chips(monkeypatch, *found)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: object())
    probed = plugin.zif_probe({"platform": "auto"})
    assert isinstance(probed, Available)
    assert probed.devices[0].memory_bytes == V5E.memory_bytes


def test_options_are_checked() -> None:
    with pytest.raises(InvalidSettings, match="must be one of auto, cpu, cuda"):
        select("tpu", ["tpu.platform=gpu"])


def test_a_platform_that_jax_does_not_have() -> None:
    from zif.contract.info import Device
    from zif_tpu.backend import create

    with pytest.raises(NoUsableDevice, match="JAX finds no cuda device"):
        create({"platform": "cuda"}, Device(name="x"))
    with pytest.raises(NoUsableDevice, match="there is no number 9"):
        create({"platform": "cpu"}, Device(name="x", index=9))


def test_the_plugin_and_its_probe_import_no_framework() -> None:
    code = "import sys, zif_tpu.plugin as p; p.zif_probe({}); assert not {'jax', 'torch', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("target", ["v6e", "v9:2x2", "v6e:2by4"])
def test_a_target_that_nobody_knows(target: str) -> None:
    with pytest.raises(InvalidSettings, match="write it as generation:topology, as in v6e:2x4"):
        plugin.zif_ahead_of_time(target, None)


def test_compiling_ahead_needs_libtpu(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "libtpu")
    with pytest.raises(NoUsableDevice, match=r"libtpu, is not installed: pip install"):
        plugin.zif_ahead_of_time("v6e:2x4", None)


def test_a_backend_that_cannot_compile_ahead_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["aot", "--device", "cpu", "--target", "x", "model"]) == 2
    assert "cannot compile ahead of time" in capsys.readouterr().err
    assert main(["aot", "--target", "x", "model"]) == 2
    assert "name the device to compile for" in capsys.readouterr().err
