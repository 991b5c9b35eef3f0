"""The suite on our own backends, as a plugin's author runs it."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from zif.cli.main import main
from zif.conformance import run
from zif.conformance.metamorphic import TRUE
from zif.conformance.scope import Scope
from zif.contract.errors import InvalidSettings


def test_the_cpu_backend_conforms() -> None:
    report = run("cpu")
    assert report.passed, report.summary()
    assert not [result for result in report.results if result.status in ("skip", "waived")]
    kernels = {result.case.split("/")[2] for result in report.results if result.section == "ops"}
    assert any(name.startswith("cpu.") for name in kernels)
    assert any(name.startswith("torch_reference.") for name in kernels)


@pytest.mark.parametrize("seed", [1, 2, 3, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(4, 21))])
def test_no_seed_raises_an_alarm(seed: int) -> None:
    report = run("cpu", only=["ops", f"engine/{TRUE}"], scope=Scope(quick=True, seed=seed))
    assert report.passed, report.summary()


def test_a_profile_is_checked_though_it_is_not_claimed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--device", "cpu", "--profile", "mla", "--only", "ops/latent_write/float32"]) == 0
    assert "latent_write" in capsys.readouterr().out
    assert main(["check", "--device", "null", "--profile", "moe", "--only", "ops/moe"]) == 1
    with pytest.raises(InvalidSettings, match="level 1 has array, llm"):
        run("null", profiles=["tarot"], only=["ops"])


def test_the_report_is_written_for_machines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "junit.xml"
    only = ["--only", f"engine/{TRUE}/full attention", "--only", "ops/softcap"]
    assert main(["check", "--device", "cpu", "--quick", "--junit", str(path), "--json", *only]) == 0
    engine, *_ = (entry for entry in json.loads(capsys.readouterr().out)["results"] if entry["section"] == "engine")
    assert engine["measured"].startswith("log-probabilities within")
    assert engine["command"] == f"zif check --device cpu --only 'engine/{TRUE}/full attention'"
    suites = ElementTree.parse(path).getroot()
    assert [suite.get("name") for suite in suites] == ["ops", "engine"]
    assert {suite.get("failures") for suite in suites} == {"0"}


def test_the_null_backend_s_package_is_clean(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--device", "null", "--only", "hygiene", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["conforms"] is True
    assert told["counts"]["pass"] > 8


def test_a_check_of_nothing_is_no_success(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--device", "null", "--only", "ops"]) == 1
    assert "DOES NOT CONFORM: 1 skip" in capsys.readouterr().out
