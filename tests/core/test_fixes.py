"""Every command that zif tells people to run is carried out, or held against what it names."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from zif.contract.errors import NoUsableDevice
from zif.plugins import discovery, select
from zif.plugins.discovery import how_to_install, installable

ROOT = Path(__file__).parents[2]
INDEXED = {
    "flashinfer-python", "jax", "matplotlib", "torch", "transformers", "triton", "openai",
}  # fmt: skip
"""Distributions of others that PyPI has."""
ELSEWHERE = {"flashinfer-jit-cache": "https://flashinfer.ai/whl/", "torch": "https://download.pytorch.org/whl/"}
"""And those of other indices, which a command then has to name."""
PLACEHOLDERS = {"zif-acme"}


def commands() -> Iterator[tuple[str, list[str]]]:
    """(place, arguments) of each `pip install` in the sources and the pages for users."""
    files = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("backends/*/README.md")]
    files += [path for room in ("core", "models", "backends") for path in (ROOT / room).rglob("*.py")]
    for path in files:
        if "tests" in path.parts:
            continue
        for found in re.finditer(r"pip install((?: (?:\"[^\"]*\"|'[^']*'|[^\s`()|#;,'\"]+))+)", path.read_text()):
            words = shlex.split(found[1].replace("{TORCH_INDEX}", ELSEWHERE["torch"]))
            yield f"{path.relative_to(ROOT)}: {found[0]}", words


def test_every_installation_names_what_is_there() -> None:
    seen = 0
    for place, words in commands():
        seen += 1
        arguments = iter(words)
        index = next((words[at + 1] for at, word in enumerate(words[:-1]) if word.endswith("index-url")), None)
        for word in arguments:
            if word == "-e":
                target = next(arguments)
                assert (
                    target.startswith("{") or (ROOT / target.replace("{name}", "cuda") / "pyproject.toml").is_file()
                ), place
            elif word in ("-c", "--index-url", "--extra-index-url"):
                next(arguments)
            elif word == "&&":
                break
            elif word.startswith("{") or not re.match(r"[a-z]", word):
                continue
            elif (name := re.split(r"[\[=<>]", word)[0]) in ELSEWHERE and index is not None:
                assert index.startswith(ELSEWHERE[name]), place
            elif name in INDEXED | PLACEHOLDERS:
                extra = re.search(r"\[([\w-]+)\]", word)
                if extra and importlib.util.find_spec(name) is not None:
                    assert extra[1] in (importlib.metadata.metadata(name).get_all("Provides-Extra") or ()), place
            elif word in ("or", "and", "lets", "in", "for", "is", "put", "where"):  # the sentence goes on
                break
            else:
                raise AssertionError(f"{place}: is there a {name}?")
    assert seen > 10


def test_zif_s_extras_are_what_its_tree_has() -> None:
    assert set(installable()) == {path.parent.name for path in ROOT.glob("backends/*/pyproject.toml")}


@pytest.mark.parametrize("name", sorted(installable()))
def test_the_fix_for_a_backend_that_is_not_installed_installs_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zif.plugins.loading.installed", lambda: ())
    with pytest.raises(NoUsableDevice) as caught:
        select(name)
    fix = str(caught.value).partition("Fix: ")[2]
    assert fix == how_to_install(name)
    pip, install, *arguments = shlex.split(fix)
    assert (pip, install) == ("pip", "install")
    done = subprocess.run(
        [sys.executable, "-m", "pip", install, "--dry-run", "--no-deps", "--no-build-isolation", *arguments],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    if "No module named pip" in done.stderr:
        pytest.skip("this environment has no pip")
    assert done.returncode == 0, done.stderr
    assert f"zif-{name}" in done.stdout


def test_without_a_source_tree_the_fix_says_where_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(discovery, "__file__", str(tmp_path / "lib/site-packages/zif/plugins/discovery.py"))
    assert how_to_install("cuda") == "pip install -e backends/cuda, in a clone of zif's source"


@pytest.mark.parametrize("name", ["rocm", "npu", "toaster"])
def test_a_backend_that_nobody_has_is_not_promised(name: str) -> None:
    with pytest.raises(NoUsableDevice) as caught:
        select(name)
    fix = str(caught.value).partition("Fix: ")[2]
    assert "pip install" not in fix
    assert fix.startswith("install the package of its vendor that provides it")
