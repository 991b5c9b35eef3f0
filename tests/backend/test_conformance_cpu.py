"""The suite on our own backends, as a plugin's author runs it."""

from __future__ import annotations

import json

import pytest

from zif.cli.main import main
from zif.conformance import run


def test_the_cpu_backend_conforms() -> None:
    report = run("cpu")
    assert report.passed, report.summary()
    assert not [result for result in report.results if result.status in ("skip", "waived")]
    kernels = {result.case.split("/")[2] for result in report.results if result.section == "ops"}
    assert any(name.startswith("cpu.") for name in kernels)
    assert any(name.startswith("torch_reference.") for name in kernels)


def test_the_null_backend_s_package_is_clean(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--device", "null", "--only", "hygiene", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["conforms"] is True
    assert told["counts"]["pass"] > 8


def test_a_check_of_nothing_is_no_success(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--device", "null", "--only", "ops"]) == 1
    assert "DOES NOT CONFORM: 1 skip" in capsys.readouterr().out
