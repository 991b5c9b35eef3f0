"""Hygiene of a third party's package, the report, waivers and the profiles' lists."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import pytest

from zif.cli.main import main
from zif.conformance import run
from zif.conformance.profiles import profiles_at, required
from zif.conformance.results import Recorder, Report, Result, Skip, Waiver, apply_waivers
from zif.conformance.waivers import read_waivers
from zif.contract.errors import InvalidSettings, NoUsableDevice, PluginError
from zif.plugins import select

PLUGIN = """
from zif.contract.hookspecs import hookimpl
from zif.contract.info import Available, BackendInfo, Device
{top}

@hookimpl
def zif_backend_info():
    return BackendInfo(name="acme", summary="{summary}", api=(1, 1), framework="numpy", verified_on=None,
                       profiles={profiles})

@hookimpl
def zif_probe():
    {probe}
    return Available((Device(name="A1"), Device(name="A1", index={second})))

@hookimpl
def zif_create_backend():
    {create}
    from zif.null.backend import NullBackend
    return NullBackend()

{more}
"""
GOOD = {"top": "", "summary": "a chip", "profiles": "()", "probe": "", "second": "1", "create": "", "more": ""}


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    """Lays an installed distribution out: its package, its metadata, and a module to stand for a framework."""

    def install(*, readme: str = "# zif-acme", typed: bool = True, **parts: str) -> None:
        monkeypatch.syspath_prepend(tmp_path)
        package = tmp_path / "zif_acme"
        package.mkdir()
        (package / "__init__.py").write_text("")
        (package / "plugin.py").write_text(PLUGIN.format(**GOOD | parts))
        if typed:
            (package / "py.typed").write_text("")
        (tmp_path / "tensorflow.py").write_text("")
        info = tmp_path / "zif_acme-1.0.dist-info"
        info.mkdir()
        head = "Metadata-Version: 2.1\nName: zif-acme\nVersion: 1.0\nSummary: acme's\n"
        (info / "METADATA").write_text(f"{head}\n{readme}\n")
        (info / "entry_points.txt").write_text("[zif.backends]\nacme = zif_acme.plugin\n")

    yield install
    import sys

    for name in [name for name in sys.modules if name.split(".")[0] in ("zif_acme", "tensorflow")]:
        del sys.modules[name]


def test_a_clean_package_passes(install) -> None:
    install()
    report = run("acme", only=["hygiene"])
    assert report.passed, report.summary()
    assert "zif-acme 1.0" in report.summary()


def test_an_unclean_package_fails_in_each_place(install) -> None:
    install(
        readme="",
        typed=False,
        summary=" ",
        profiles="('llm', 'tarot')",
        probe="import tensorflow",
        second="0",
        create="import zif.process.loop as l, zif.contract.errors as e; e.OutOfMemory.__str__ = l.serve = print",
        more="def zif_kernel(backend):\n    return ()\n",
    )
    report = run("acme", only=["hygiene"])
    assert {failure.subject for failure in report.failures()} == {
        "metadata", "py.typed", "summary", "profiles are known", "imports no framework", "devices are numbered",
        "core is left as it is", "hooks are named right",
    }  # fmt: skip
    told = {failure.subject: failure.detail for failure in report.failures()}
    assert "tensorflow" in told["imports no framework"]
    assert "zif.process.loop.serve" in told["core is left as it is"]
    assert "zif.contract.errors.OutOfMemory.__str__" in told["core is left as it is"]
    assert "zif_kernel" in told["hooks are named right"]


def test_a_function_whose_code_is_swapped_is_seen(install) -> None:
    install(create="import zif.process.loop as l; l.serve.__code__ = (lambda *a, **k: None).__code__")
    told = {failure.subject: failure.detail for failure in run("acme", only=["hygiene"]).failures()}
    assert told.keys() == {"core is left as it is"}
    assert "zif.process.loop.serve.__code__" in told["core is left as it is"]


def test_a_variable_that_is_set_in_passing_is_seen(install) -> None:
    install(top="import os; os.environ['ACME_DEBUG'] = '1'")
    os.environ.pop("ACME_DEBUG", None)
    told = {failure.subject: failure.detail for failure in run("acme", only=["hygiene"]).failures()}
    os.environ.pop("ACME_DEBUG", None)
    assert told.keys() == {"the environment is left as it is"}
    assert "ACME_DEBUG" in told["the environment is left as it is"]


def test_what_a_plugin_prints_is_not_in_the_report(install, capsys: pytest.CaptureFixture[str]) -> None:
    install(top="print('hello from acme')", probe="print('probing')")
    assert main(["check", "--device", "acme", "--only", "hygiene", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["conforms"]
    assert "hello from acme" in err


def test_an_error_of_create_backend_names_plugin_and_hook(install) -> None:
    install(create="raise RuntimeError('the firmware is too old')")
    with pytest.raises(PluginError, match=r"'acme' of zif-acme 1.0: zif_create_backend raised: RuntimeError: the firm"):
        select("acme").create_backend()


def test_a_plugin_that_takes_long_is_named(
    install, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("zif.plugins.loading.PATIENCE", 0.05)
    install(probe="import time; time.sleep(0.3)")
    select("acme")
    assert "zif waits for zif-acme 1.0: plugin 'acme'" in capsys.readouterr().err


def test_a_backend_that_cannot_be_made_fails_with_its_own_words(install) -> None:
    install(create="raise RuntimeError('the firmware is too old')")
    report = run("acme", only=["hygiene/capabilities"])
    assert "the firmware is too old" in report.failures()[0].detail


def test_an_unknown_device_is_an_error_not_a_report() -> None:
    with pytest.raises(NoUsableDevice):
        run("abacus")


def test_a_device_without_a_profile_is_skipped_and_says_so() -> None:
    report = run("null", only=["ops", "runtime", "executables"])
    assert {result.status for result in report.results} == {"skip"}
    assert not report.passed  # nothing was shown
    assert "the plugin claims no profile" in report.summary()


def test_profiles_require_their_ops_and_those_on_arrays() -> None:
    assert sorted(profiles_at(1)) == ["array", "llm", "mla", "moe"]
    assert required((), 1) == []
    assert required(("mla",), 1)[:2] == ["where", "arange"]


def test_the_report_is_json_and_counts() -> None:
    report = Report(
        "acme:0", "zif-acme 1.0", [Result("ops", "rope", "x", "fail", "off"), Result("ops", "rope", "y", "pass")]
    )
    told = json.loads(json.dumps(report.as_json()))
    assert told["counts"] == {"pass": 1, "fail": 1, "skip": 0, "waived": 0}
    assert told["conforms"] is False
    assert told["results"][0]["name"] == "ops/rope/x"
    assert report.rows() == [{"section": "ops", "subject": "rope", "pass": 1, "fail": 1, "skip": None, "waived": None}]
    assert "FAIL ops/rope/x: off" in report.summary()
    assert "DOES NOT CONFORM: 1 pass, 1 fail" in report.summary()


def test_a_check_that_raises_fails_alone() -> None:
    recorder = Recorder()

    def breaks() -> None:
        raise ValueError("no\nsuch thing")

    def skips() -> None:
        raise Skip("not here")

    recorder.check("a", "b", "c", breaks)
    recorder.check("a", "b", "d", skips)
    recorder.check("a", "b", "e", lambda: None)
    assert all(result.seconds is not None for result in recorder.results)
    assert [(r.status, r.detail.partition(" (")[0]) for r in recorder.results] == [
        ("fail", "ValueError: no such thing"), ("skip", "not here"), ("pass", ""),
    ]  # fmt: skip
    assert "test_conformance_report.py:" in recorder.results[0].detail


def test_the_log_says_what_is_checked_and_what_it_took(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "zif.conformance")
    recorder = Recorder(["engine"])
    assert recorder.begins("engine") and not recorder.begins("ops")
    recorder.check("engine", "law", "model", lambda: None, logging.INFO)
    recorder.check("engine", "law", "other", lambda: None)
    first, second = caplog.messages
    assert first == "checking engine"
    assert second.startswith("engine/law/model: pass, ")


@pytest.mark.parametrize(
    ("only", "kept"),
    [
        (["ops"], ["ops/rope/x"]),
        (["ops/rope"], ["ops/rope/x"]),
        (["*/rope/*"], ["ops/rope/x"]),
        (["engine", "ops/rope/x"], ["ops/rope/x", "engine/cache/y"]),
        (["op"], []),
    ],
)
def test_only_selects_by_section_name_or_glob(only: list[str], kept: list[str]) -> None:
    recorder = Recorder(only)
    for section, subject, case in (("ops", "rope", "x"), ("engine", "cache", "y")):
        recorder.add(section, subject, case, "pass")
    assert [result.name for result in recorder.results] == kept
    assert recorder.wants("ops") == any(name.startswith("ops") for name in kept)


def test_waivers_are_strict() -> None:
    results = [Result("ops", "rope", "x", "fail", "off"), Result("ops", "rope", "y", "pass")]
    waived = list(apply_waivers(results, [Waiver("ops/rope/x", "tracker/12"), Waiver("ops/rope/y", "tracker/13")]))
    assert [(r.status, r.section) for r in waived] == [("waived", "ops"), ("pass", "ops"), ("fail", "waivers")]
    assert "tracker/12" in waived[0].detail
    assert "remove it" in waived[2].detail


def test_the_waivers_file(tmp_path: Path) -> None:
    path = tmp_path / "waivers.toml"
    path.write_text('[[waiver]]\nmatch = "ops/rope/*"\nreason = "driver 3 rounds; tracker/12"\n')
    assert read_waivers(path) == [Waiver("ops/rope/*", "driver 3 rounds; tracker/12")]
    for wrong in ("[[waiver]]\nmatch = 'x'", "[[waiver]]\nmatch = 'x'\nreason = ' '", "other = 1", "= ="):
        path.write_text(wrong)
        with pytest.raises(InvalidSettings, match="--waivers"):
            read_waivers(path)
    with pytest.raises(InvalidSettings, match="No such file"):
        read_waivers(tmp_path / "missing.toml")
