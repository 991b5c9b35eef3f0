"""Discovery, loading and selection of plugins, with third parties made of files in a temporary folder."""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from zif.cli import main as cli
from zif.contract import hookspecs
from zif.contract.errors import IncompatiblePlugin, InvalidSettings, NoUsableDevice, PluginError
from zif.contract.version import API_VERSION, OLDEST_API_VERSION, negotiate
from zif.plugins import (
    extending,
    extension_formats,
    extension_kernels,
    extension_models,
    installed,
    load,
    select,
    survey,
)
from zif.plugins.discovery import installable

GOOD = """
from zif.contract.hookspecs import hookimpl
from zif.contract.info import Available, BackendInfo, Device, DeviceOption, ModelOverride, Unavailable

@hookimpl
def zif_backend_info():
    return BackendInfo(name="acme", summary="a test", api=(1, 1), framework="torch", verified_on=None, preference=7)

@hookimpl
def zif_cli_options():
    return [DeviceOption(name="platform", summary="which", default="sim", choices=("sim", "real"))]

@hookimpl
def zif_probe(options):
    return Available((Device(name="A1", index=0), Device(name="A1", index=1, detail=options["platform"])))

@hookimpl
def zif_create_backend(options, device):
    return ("backend", options, device)
"""

Install = Callable[..., Path]


@pytest.fixture(autouse=True)
def without_siblings(monkeypatch: pytest.MonkeyPatch) -> None:
    """What these tests see does not depend on which of our other distributions are installed."""
    siblings = set(installable().values())
    every = importlib.metadata.entry_points

    def entry_points(**selected: str) -> list[importlib.metadata.EntryPoint]:
        return [found for found in every(**selected) if found.dist is None or found.dist.name not in siblings]

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Installs a distribution: a module, and metadata with an entry point for it."""
    monkeypatch.syspath_prepend(tmp_path)
    modules: list[str] = []

    def install(
        code: str, *, name: str = "acme", dist: str = "zif-acme", group: str = "zif.backends", module: str = ""
    ) -> Path:
        module = module or dist.replace("-", "_") + "_plugin"
        (tmp_path / f"{module}.py").write_text(code)
        info = tmp_path / f"{dist.replace('-', '_')}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {dist}\nVersion: 1.2\n")
        (info / "entry_points.txt").write_text(f"[{group}]\n{name} = {module}\n")
        modules.append(module)
        return tmp_path

    yield install
    for module in modules:
        sys.modules.pop(module, None)


def without(hook: str) -> str:
    return GOOD.replace(f"@hookimpl\ndef {hook}", f"def not_a_hook_{hook}")


def test_our_own_backend_is_found_like_anyone_s() -> None:
    (cpu,) = [found for found in installed() if found.name == "cpu"]
    assert cpu.distribution == "zif"
    assert cpu.entry_point.value == "zif_cpu.plugin"


def test_a_third_party_is_selected_with_its_options(install: Install) -> None:
    install(GOOD)
    chosen = select("acme:1", ["acme.platform=real"])
    assert chosen.device.index == 1
    assert chosen.device.detail == "real"
    assert chosen.create_backend() == ("backend", {"platform": "real"}, chosen.device)
    assert "acme:1 of zif-acme 1.2" in chosen.explain()
    assert "cpu (zif 0.1.0): not asked" in chosen.explain()


def test_finding_imports_nothing(install: Install) -> None:
    install("raise RuntimeError('imported')")
    assert "acme" in [found.name for found in installed()]
    assert select("cpu").plugin.name == "cpu"


def test_auto_takes_the_most_preferred_and_says_why(install: Install) -> None:
    install(GOOD)
    chosen = select("auto")
    assert chosen.plugin.name == "acme"
    assert "preference 7" in chosen.reason
    assert "cpu (zif 0.1.0): available" in chosen.explain()


def test_auto_passes_over_what_cannot_run_and_says_why(install: Install) -> None:
    install(GOOD.replace("return Available(", "return Unavailable('no card', 'plug one in') or Available("))
    chosen = select("auto")
    assert chosen.plugin.name == "cpu"
    assert "acme (zif-acme 1.2): unavailable: no card. Fix: plug one in" in chosen.explain()


def test_auto_without_any_real_device_fails_closed(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("raise RuntimeError('boom')")
    monkeypatch.setattr("zif_cpu.plugin.importlib.util.find_spec", lambda _: None)
    with pytest.raises(NoUsableDevice, match=r"(?s)no plugin can run here.*boom.*pip install torch"):
        select("auto")


def test_a_named_device_that_cannot_run_is_an_error_never_another_device(install: Install) -> None:
    install(GOOD.replace("return Available(", "return Unavailable('no card', 'plug one in') or Available("))
    with pytest.raises(NoUsableDevice) as error:
        select("acme")
    first, *trace = str(error.value).splitlines()
    assert first == "--device acme: no card. Fix: plug one in"
    assert trace[0].strip().startswith("acme (zif-acme 1.2): unavailable")
    assert trace[1].strip().startswith("cpu (zif 0.1.0): not asked")


def test_an_unknown_device_lists_those_found_and_how_to_get_one_of_ours() -> None:
    with pytest.raises(NoUsableDevice, match=r"Installed: cpu \(zif .*\)\. Fix: pip install -e \S*backends/tpu$"):
        select("tpu")
    with pytest.raises(NoUsableDevice, match=r"Installed: cpu .*vendor that provides it; zif's own are cuda, tpu"):
        select("toaster")


@pytest.mark.parametrize(
    ("code", "complaint"),
    [
        ("import no_such_module_here", "ModuleNotFoundError: No module named 'no_such_module_here'"),
        ("def broken(:", "SyntaxError"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("1 / 0", "ZeroDivisionError"),
        (without("zif_probe"), "lacks the required hook zif_probe"),
        (GOOD.replace("@hookimpl\ndef zif_probe", "def zif_probe"), "zif_probe lacks the @hookimpl marker"),
        (GOOD.replace("zif_cli_options", "zif_cli_optoins"), "unknown hook 'zif_cli_optoins'"),
        (GOOD.replace("zif_probe(options)", "zif_probe(options, colour)"), "colour"),
        (GOOD.replace('return BackendInfo(name="acme"', 'return BackendInfo(name="emca"'), "calls itself 'emca'"),
        (GOOD.replace("return BackendInfo(", "return dict("), "zif_backend_info returned dict, not BackendInfo"),
        (GOOD.replace("return [DeviceOption", "return ['x'] or [DeviceOption"), "list with a str, not DeviceOption"),
        (GOOD.replace("api=(1, 1)", "api=1"), r"API range is 1, not \(oldest, newest\)"),
        (GOOD.replace("return Available(", "return None or print("), "returned NoneType, not Available or Unavailable"),
        (GOOD.replace("return Available(", "return Available(()) or ("), "Available without a device"),
        (GOOD.replace("return Available(", "raise OSError('driver', "), r"zif_probe raised: OSError: .*driver"),
    ],
)
def test_a_broken_plugin_is_named_and_hurts_nobody_else(install: Install, code: str, complaint: str) -> None:
    install(code)
    with pytest.raises(PluginError, match=complaint) as error:
        select("acme")
    assert "plugin 'acme' of zif-acme 1.2" in str(error.value)
    assert len(str(error.value).splitlines()) == 1
    assert error.value.distribution == "zif-acme"
    verdicts = {entry.name: entry.verdict for entry in survey()}
    assert verdicts == {"acme": "broken", "cpu": "available", "null": "available"}
    assert select("auto").plugin.name == "cpu"


def test_two_distributions_with_one_name_are_an_error_that_names_both(install: Install) -> None:
    install(GOOD)
    install(GOOD, dist="other-acme")
    with pytest.raises(PluginError, match=r"claimed by other-acme 1\.2 and zif-acme 1\.2: uninstall"):
        load("acme")
    assert select("auto").plugin.name == "cpu"


def test_api_versions_that_do_not_meet_name_both_sides(install: Install) -> None:
    install(GOOD.replace("api=(1, 1)", "api=(98, 99)"))
    with pytest.raises(IncompatiblePlugin, match=rf"speaks plugin API versions 98 to 99.*speaks version {API_VERSION}"):
        load("acme")


def test_negotiation_takes_the_newest_common_version() -> None:
    assert negotiate((1, 99), plugin="p", distribution="d") == API_VERSION
    with pytest.raises(IncompatiblePlugin, match="upgrade zif"):
        negotiate((API_VERSION + 1, API_VERSION + 2), plugin="p", distribution="d")
    with pytest.raises(IncompatiblePlugin, match="upgrade d"):
        negotiate((0, OLDEST_API_VERSION - 1), plugin="p", distribution="d")


@pytest.mark.parametrize(
    ("device", "options", "complaint"),
    [
        ("acme", ["acme.colour=red"], "has no such option, but acme.platform"),
        ("acme", ["acme.platform=imaginary"], "must be one of sim, real"),
        ("acme", ["platform=sim"], "write it as plugin.key=value"),
        ("acme", ["cpu.threads=2"], "for another plugin than --device acme"),
        ("auto", ["toaster.heat=2"], "no plugin of that name"),
        ("acme:one", [], "a device's number"),
        ("auto:1", [], "needs the plugin's name"),
    ],
)
def test_wrong_options_are_explained(install: Install, device: str, options: list[str], complaint: str) -> None:
    install(GOOD)
    with pytest.raises(InvalidSettings, match=complaint):
        select(device, options)


def test_an_index_that_does_not_exist_lists_those_that_do(install: Install) -> None:
    install(GOOD)
    with pytest.raises(NoUsableDevice, match=r"acme:7: no such device; zif-acme 1\.2 found 0, 1"):
        select("acme:7")


def test_hygiene_a_probe_that_imports_a_framework_is_noticed(install: Install) -> None:
    path = install(GOOD.replace("return Available(", "import torch; return Available("))
    (path / "torch.py").write_text("")
    check = (
        f"import sys; sys.path.insert(0, {str(path)!r})\n"
        "from zif.plugins import survey\n"
        "found = {entry.name: entry for entry in survey()}\n"
        "assert found['acme'].plugin.imported_frameworks == {'torch'}, found\n"
        "assert 'imports torch' in found['acme'].reason\n"
        "assert not found['cpu'].plugin.imported_frameworks\n"
    )
    subprocess.run([sys.executable, "-c", check], check=True, timeout=60)


def test_environment_is_set_before_the_backend_is_made_and_the_user_s_own_wins(
    install: Install, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    wanted = "{'ZIF_T_NEW': options['platform'], 'ZIF_T_MINE': 'x'}"
    install(
        GOOD.replace("return (", "import os; return os.environ['ZIF_T_NEW'], os.environ['ZIF_T_MINE'], (")
        + f"\n@hookimpl\ndef zif_environment(options):\n    return {wanted}\n"
    )
    monkeypatch.setenv("ZIF_T_NEW", "")
    monkeypatch.delenv("ZIF_T_NEW")
    monkeypatch.setenv("ZIF_T_MINE", "kept")
    monkeypatch.setitem(sys.modules, "torch", sys.modules.get("torch", sys))
    new, mine, _ = select("acme").create_backend()  # type: ignore[misc]
    assert (new, mine) == ("sim", "kept")
    assert "ZIF_T_NEW came too late for" in caplog.text


EXTENSION = """
from zif.contract.formats import PlainFormat
from zif.contract.hookspecs import hookimpl
from zif.contract.info import ExtensionInfo
from zif.contract.kernels import KernelSet

class Fast(KernelSet):
    provider = "fast"
    level = 1

@hookimpl
def zif_extension_info():
    return ExtensionInfo(name="fast-ops", summary="a test", api=(1, 1), backends=("cpu",))

@hookimpl
def zif_kernels(backend):
    return [Fast()]

@hookimpl
def zif_cache_formats(backend):
    return [PlainFormat("float8_e3m4")]

@hookimpl
def zif_models():
    return {"AcmeForCausalLM": "acme.model"}
"""


@pytest.fixture
def install_extension(install: Install, caplog: pytest.LogCaptureFixture) -> Callable[[str], None]:
    extending._report_skipped.cache_clear()  # a process reports once; each test is to see its own
    return lambda code: install(code, name="fast-ops", dist="fast-ops", group="zif.extensions") and None


def providers(backend: str) -> list[str]:
    return [kernels.provider for kernels in extension_kernels(backend, backend)]  # type: ignore[arg-type]


def formats(backend: str) -> list[str]:
    return [stored.name for stored in extension_formats(backend, backend)]  # type: ignore[arg-type]


def test_an_extension_adds_kernels_formats_and_models_to_the_backends_it_names(
    install_extension: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    install_extension(EXTENSION)
    assert providers("cpu") == ["fast"]
    assert formats("cpu") == ["float8_e3m4"]
    assert extension_models("cpu") == {"AcmeForCausalLM": "acme.model"}
    assert providers("other") == formats("other") == []
    assert extension_models("other") == {}
    assert not caplog.records


def test_an_extension_can_be_for_every_backend(install_extension: Callable[[str], None]) -> None:
    install_extension(EXTENSION.replace('("cpu",)', '("*",)'))
    assert providers("cpu") == providers("other") == ["fast"]


@pytest.mark.parametrize(
    ("code", "complaint"),
    [
        ("import no_such_module_here", "could not be imported: ModuleNotFoundError"),
        ("import sys; sys.exit(3)", "could not be imported: SystemExit: 3"),
        (EXTENSION.replace("@hookimpl\ndef zif_extension", "def not_a_hook"), "lacks the required hook zif_extension"),
        (EXTENSION.replace('name="fast-ops"', 'name="slow"'), "calls itself 'slow', but its entry point is 'fast-ops'"),
        (EXTENSION.replace("(1, 1)", "(98, 99)"), "speaks plugin API versions 98 to 99.*upgrade zif"),
        (EXTENSION.replace("(1, 1)", "(0, 0)"), r"API range is \(0, 0\)"),
        (EXTENSION.replace('("cpu",)', '"cpu"'), "its backends are 'cpu', not a tuple of names"),
        (EXTENSION.replace('("cpu",)', "()"), r"its backends are \(\), not a tuple of names"),
    ],
)
def test_a_broken_extension_is_skipped_and_reported_and_stops_no_device(
    install_extension: Callable[[str], None],
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    code: str,
    complaint: str,
) -> None:
    install_extension(code)
    assert select("cpu").plugin.name == "cpu"
    assert providers("cpu") == []
    assert extension_models("cpu") == {}
    (warning,) = caplog.messages
    assert re.search(rf"plugin 'fast-ops' of fast-ops 1\.2.*{complaint}", warning)
    assert "upgrade" in warning
    assert cli.main(["devices", "--json"]) == 0
    (listed,) = [entry for entry in json.loads(capsys.readouterr().out) if entry["kind"] == "extension"]
    assert (listed["name"], listed["distribution"], listed["status"]) == ("fast-ops", "fast-ops 1.2", "broken")
    assert listed["reason"] in warning


def test_an_extension_that_fails_when_asked_is_skipped_too(
    install_extension: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    install_extension(
        EXTENSION.replace("return [Fast()]", "1 / 0")
        .replace('{"AcmeForCausalLM": "acme.model"}', "3")
        .replace('[PlainFormat("float8_e3m4")]', "['fp4']")
    )
    assert providers("other") == []
    assert not caplog.messages, "it is not asked about a backend that it is not for"
    assert providers("cpu") == []
    assert formats("cpu") == []
    assert extension_models("cpu") == {}
    raised, wrong_item, wrong_type = caplog.messages
    assert "fast-ops 1.2: zif_kernels raised: ZeroDivisionError" in raised
    assert "fast-ops 1.2: zif_cache_formats returned a list with a str, not CacheFormat" in wrong_item
    assert "fast-ops 1.2: zif_models returned int, not Mapping" in wrong_type


def test_devices_lists_extensions_and_what_they_are_for(
    install_extension: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["devices"]) == 0
    assert "extension" not in capsys.readouterr().out
    install_extension(EXTENSION)
    assert cli.main(["devices"]) == 0
    *_, head, row = capsys.readouterr().out.splitlines()
    assert head.split() == ["extension", "status", "from", "for", "detail"]
    assert row.split() == ["fast-ops", "usable", "fast-ops", "1.2", "cpu", "a", "test"]


def test_a_backend_says_which_models_it_runs_its_own_of(install: Install) -> None:
    install(
        GOOD + "\n@hookimpl\ndef zif_model_override():\n"
        "    return [ModelOverride(architecture='Llama', module='acme.llama', reason='fused')]\n"
    )
    assert load("acme").model_overrides()[0].reason == "fused"


def test_a_plugin_compiles_ahead_of_time_if_it_can(install: Install) -> None:
    install(GOOD + "\n@hookimpl\ndef zif_ahead_of_time(options, target):\n    return options['platform'], target\n")
    assert load("acme").ahead_of_time({"platform": "sim"}, "a1") == ("sim", "a1")  # type: ignore[comparison-overlap]
    with pytest.raises(InvalidSettings, match=r"--device cpu: zif .* cannot compile ahead of time"):
        load("cpu").ahead_of_time({}, "a1")


HOOKS = sorted(name for name in vars(hookspecs) if name.startswith("zif_"))


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_has_a_sentence_a_page_and_a_test(hook: str) -> None:
    root = Path(__file__).parents[2]
    sentence = getattr(hookspecs, hook).__doc__
    assert sentence.endswith(".")
    assert len(sentence.splitlines()) == 1
    assert f"`{hook}(" in (root / "docs/plugins.md").read_text()
    assert f"def {hook}(" in Path(__file__).read_text()
