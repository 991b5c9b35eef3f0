"""``zif devices --ops``: which kernel serves what, on a real backend."""

from __future__ import annotations

import json

import pytest

from zif.cli.main import main


def test_ops_of_the_cpu_backend_are_all_served(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["devices", "--ops", "cpu", "--json"]) == 0
    choices = json.loads(capsys.readouterr().out)
    assert {"linear", "paged_attention", "sample"} <= {choice["op"] for choice in choices}
    assert all(choice["kernel"] for choice in choices)


def test_the_table_has_a_row_for_what_was_decided_alike(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["devices", "--ops", "cpu"]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == ["op", "dtype", "kernel", "cases", "rejected"]
    norms = [row.split() for row in rows if row.startswith("rms_norm ")]
    assert sorted(norm[1] for norm in norms) == sorted({norm[1] for norm in norms})


def test_asking_is_not_making(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Making a kernel may compile it, which on some devices takes minutes."""

    def make(*_: object) -> None:
        raise AssertionError("a kernel was made")

    monkeypatch.setattr("zif.conformance.opcheck.bind", make)
    assert main(["devices", "--ops", "cpu", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)
