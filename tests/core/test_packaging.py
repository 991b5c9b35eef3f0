"""What is packaged and exported, and what core and models may know."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.metadata import entry_points, metadata, packages_distributions, version
from pathlib import Path

import pytest

import zif

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_version_is_the_distribution_s() -> None:
    assert zif.__version__ == version("zif") == PROJECT["project"]["version"]


def test_the_command_is_installed() -> None:
    (command,) = entry_points(group="console_scripts", name="zif")
    assert callable(command.load())


def test_public_names() -> None:
    assert sorted(zif.__all__) == ["LLM", "SamplingParams", "__version__"]
    assert zif.SamplingParams.__module__ == "zif.sampling.params"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = zif.nothing


def test_an_extra_exists_for_each_sibling_distribution() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    siblings = {name: needs for name, needs in extras.items() if needs == [f"zif-{name}"]}
    assert siblings.keys() == {"cuda", "tpu"}
    assert metadata("zif").get_all("Provides-Extra", []) == sorted(extras)


def test_every_package_says_that_it_is_typed() -> None:
    for package in PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]:
        assert (ROOT / package / "py.typed").exists(), package


def test_the_wheel_has_the_three_roots_and_the_sdist_what_it_takes_to_build_it(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=100)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    info = f"zif-{zif.__version__}.dist-info"
    assert {name.partition("/")[0] for name in names} == {"zif", "zif_models", "zif_cpu", info}
    assert {f"{info}/entry_points.txt", f"{info}/licenses/LICENSE", "zif_cpu/plugin.py", "zif/py.typed"} <= set(names)
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as sdist:
        packed = {name.split("/", 1)[1] for name in sdist.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "core/zif/__init__.py"} <= packed
    assert not any(name.startswith(("tests/", "benchmarks/")) for name in packed)


def sources(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


DEVICE_NAME = re.compile(r"\b(cuda|rocm|hip|npu|xpu|tpu|nvidia|amd|ascend)\b", re.IGNORECASE)


TRITONS_OWN = "from triton.language.extra."
"""Where Triton keeps instructions that not all devices have, by the vendor's name; they are used behind a flag."""


def test_core_and_models_name_no_device() -> None:
    named = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in sources("core/zif", "models/zif_models")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if DEVICE_NAME.search(line) and not line.startswith(TRITONS_OWN)
    ]
    assert named == []


def imports(path: Path) -> set[str]:
    """Top-level packages that a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


def normalized(distribution: str) -> str:
    return re.split(r"[\s<>=!~;\[]", distribution)[0].lower().replace("_", "-")


def test_what_is_imported_is_declared_as_a_dependency() -> None:
    declared = {normalized(needed) for needed in PROJECT["project"]["dependencies"]}
    # Imported when they are used: a backend or an extra brings them.
    optional = {"jax", "jaxlib", "matplotlib", "triton"}
    providers = packages_distributions()
    undeclared = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in sources("core/zif", "models/zif_models", "backends/cpu/zif_cpu")
        for name in imports(path) - sys.stdlib_module_names - {"zif", "zif_models", "zif_cpu"} - optional
        if not declared & {normalized(distribution) for distribution in providers.get(name, [name])}
    }
    assert undeclared == set()


def test_no_backend_imports_another() -> None:
    for backend in sorted((ROOT / "backends").iterdir()):
        own = f"zif_{backend.name}"
        for path in backend.rglob("*.py"):
            strangers = {name for name in imports(path) if name.startswith("zif_")} - {own, "zif_models"}
            assert not strangers, f"{path.relative_to(ROOT)} imports {strangers}"


def test_the_top_of_the_tree_stays_as_the_readme_draws_it() -> None:
    entries = {path.name for path in ROOT.iterdir() if not path.name.startswith(".")}
    folders = {"core", "backends", "models", "tests", "benchmarks", "docs", "examples"}
    built = {"build", "dist", "__pycache__"}
    assert entries - built <= folders | {"pyproject.toml", "README.md", "LICENSE"}
