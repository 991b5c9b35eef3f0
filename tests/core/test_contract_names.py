"""Two surfaces that authors build on are pinned: a name that goes, or changes its parameters' names, breaks a plugin.

``contract_names.txt`` is the plugin API: what ``zif.contract`` offers. ``building_blocks.txt`` is what backends in this
repository take of the references and the portable kernels besides; others may too. Ops are pinned by docs/ops.md.
After a change that is meant, ``python tests/core/test_contract_names.py`` rewrites both, and the diff is reviewed.
"""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest

import zif.contract

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
NAMES, BLOCKS = HERE / "contract_names.txt", HERE / "building_blocks.txt"
AUTHORS = ("backends/cpu/zif_cpu", "backends/cuda/zif_cuda", "backends/tpu/zif_tpu", "models/zif_models")
OFFERED = ("zif.reference.", "zif.portable.", "zif.contract.ops.")
"""Where what is offered besides the contract's names lives."""


def contract_names() -> list[str]:
    """``Name(parameters)`` of all that the contract offers, and members of protocols."""
    return sorted(line for name in dir(zif.contract) for line in _described(name, getattr(zif.contract, name)))


def _described(path: str, value: object) -> Iterator[str]:
    if getattr(value, "_is_protocol", False):
        for name, member in {**getattr(value, "__annotations__", {}), **vars(value)}.items():
            if not name.startswith("_"):
                yield from _described(f"{path}.{name}", member)
    else:
        yield path + _parameters(value)


def _parameters(value: object) -> str:
    try:
        return "(" + ", ".join(inspect.signature(value).parameters) + ")" if callable(value) else ""
    except ValueError:  # an exception class without an __init__ of its own
        return ""


def imports_of_core() -> set[tuple[str, str]]:
    """(module, name) of all that our backends and models import from zif."""
    files = [file for author in AUTHORS for file in (ROOT / author).rglob("*.py")]
    nodes = [node for file in files for node in ast.walk(ast.parse(file.read_text()))]
    froms = [node for node in nodes if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "zif"]
    return {(str(node.module), alias.name) for node in froms for alias in node.names}


def building_blocks() -> list[str]:
    """``module.name(parameters)`` of what they import besides the contract's names."""
    lines = []
    for module, name in sorted(imports_of_core()):
        if module != "zif.contract":
            lines.append(f"{module}.{name}" + _parameters(getattr(importlib.import_module(module), name)))
    return lines


def test_names_of_the_plugin_api_are_pinned() -> None:
    assert contract_names() == NAMES.read_text().splitlines()


def test_building_blocks_of_backends_are_pinned() -> None:
    assert building_blocks() == BLOCKS.read_text().splitlines()


def test_backends_and_models_import_what_is_offered_alone() -> None:
    modules = {module for module, _ in imports_of_core()} - {"zif.contract"}
    assert [module for module in modules if not f"{module}.".startswith(OFFERED)] == []


def test_a_name_is_imported_for_types_and_at_run_time_alike() -> None:
    tree = ast.parse(Path(str(zif.contract.__file__)).read_text())
    typed = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module != "typing"]
    found = {(str(node.module), alias.name) for node in typed for alias in node.names if alias.name != "annotations"}
    offered = {(getattr(zif.contract, "_MODULES")[name], name) for name in dir(zif.contract)}  # noqa: B009
    assert found == {(f"zif.contract.{module}", name) for module, name in offered}


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="the contract has no 'nothing'"):
        zif.contract.nothing  # type: ignore[attr-defined]  # noqa: B018


if __name__ == "__main__":
    NAMES.write_text("\n".join(contract_names()) + "\n")
    BLOCKS.write_text("\n".join(building_blocks()) + "\n")
