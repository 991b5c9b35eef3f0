"""``zif ops``: the specification, as an author reads it."""

from __future__ import annotations

import pytest

from zif.cli.main import main
from zif.contract.ops import op_specs


@pytest.mark.parametrize("name", [*op_specs()])
def test_every_op_is_told(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ops", name]) == 0
    said = capsys.readouterr().out
    spec = op_specs()[name]
    assert said.startswith(f"{name}({', '.join(spec.parameters)})\nprofile {spec.profile}, since level {spec.since}")
    assert all(f"  {fact.name} " in said and fact.meaning in said for fact in spec.facts)
    assert ("tolerances:" in said) == bool(spec.tolerances)


def test_the_nesting_of_a_cache_and_the_rules_of_padding_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ops", "paged_attention"]) == 0
    said = capsys.readouterr().out
    assert "cache  {'g': {'k': float [2, " in said
    assert "padding writes to page 0 alone" in said
    assert "strides" in said
    assert "q: rows may lie apart" in said


def test_who_serves_it_is_told_of_a_backend(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ops", "softcap", "--device", "cpu"]) == 0
    assert "torch_reference.softcap" in capsys.readouterr().out


def test_all_are_listed_and_an_unknown_one_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ops"]) == 0
    assert "kv_write" in capsys.readouterr().out
    assert main(["ops", "abacus"]) == 2
    assert "there is no such op; there are" in capsys.readouterr().err
