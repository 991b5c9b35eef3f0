"""The suite on communicators: gloo's conforms, planted bugs do not."""

from __future__ import annotations

from pathlib import Path

import pytest

from zif.conformance import run

PLUGIN = """
from zif.contract.hookspecs import hookimpl
from zif.contract.info import Available, BackendInfo, Device

@hookimpl
def zif_backend_info():
    return BackendInfo(name="acme", summary="a chip", api=(1, 1), framework="torch", verified_on=None,
                       ranks="processes")

@hookimpl
def zif_probe():
    return Available((Device(name="A1"), Device(name="A1", index=1)))

@hookimpl
def zif_create_backend(device, group):
    from zif.reference.torch import TorchBackend, TorchRuntime
    from zif.reference.torch.communicator import TorchCommunicator, gloo
    assert device.index == group.rank
    sum_of, join = TorchCommunicator.all_reduce, TorchCommunicator.all_gather
    {bug}
    backend = TorchBackend(TorchRuntime())
    backend.communicator = gloo(group)
    return backend
"""
BUGS = {
    "": [],
    "TorchCommunicator.all_reduce = lambda self, x: x": ["all_reduce"],
    "TorchCommunicator.all_reduce = lambda self, x: sum_of(self, x) * 0.5": ["all_reduce"],
    "TorchCommunicator.all_gather = lambda self, x: join(self, x).flip(-1)": ["all_gather"],
    "TorchCommunicator.all_gather = lambda self, x: join(self, x.T).T": ["all_gather"],
    "TorchCommunicator.close = lambda self: __import__('threading').Event().wait()": ["close"],
    "TorchCommunicator.close = lambda self: 1 / 0": ["close"],
    "raise RuntimeError('no link')": ["all"],
    "return TorchBackend(TorchRuntime())": ["size"],
}


QUICK = (
    "", "TorchCommunicator.all_reduce = lambda self, x: x", "return TorchBackend(TorchRuntime())",
    "TorchCommunicator.close = lambda self: __import__('threading').Event().wait()",
)  # fmt: skip


@pytest.mark.parametrize("bug", [bug if bug in QUICK else pytest.param(bug, marks=pytest.mark.slow) for bug in BUGS])
def test_planted_bugs(bug: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "acme_ranks").mkdir()
    (tmp_path / "acme_ranks" / "__init__.py").write_text(PLUGIN.format(bug=bug or "pass"))
    info = tmp_path / "zif_acme_ranks-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: zif-acme-ranks\nVersion: 1.0\nSummary: acme's\n")
    (info / "entry_points.txt").write_text("[zif.backends]\nacme = acme_ranks\n")
    report = run("acme", only=["communicator"])
    assert sorted({failure.subject for failure in report.failures()}) == BUGS[bug], report.summary()
    assert report.passed == (not bug), report.summary()
